"""A training process that a fork server has forked; to its user it is like a `Popen`."""

import json
import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

_CONNECT_SECONDS = 10


class ForkedChild:
    """A child of the fork server (`trainer_core/training/fork_server.py` has the protocol)."""

    def __init__(self, server: Path, *, output: BinaryIO, environment: Mapping[str, str]) -> None:
        """Have it forked; OSError if the server does not answer.

        Args:
            server: the server's socket.
            output: where the process prints to at first.
            environment: its variables.
        """
        self.returncode: int | None = None
        self._answers = b""
        self._connection = socket.socket(socket.AF_UNIX)
        read_end, write_end = os.pipe()
        self.stdin: BinaryIO = os.fdopen(write_end, "wb")
        try:
            self._connection.settimeout(_CONNECT_SECONDS)
            self._connection.connect(str(server))
            request = json.dumps({"environment": dict(environment)}).encode() + b"\n"
            descriptors = [read_end, output.fileno(), output.fileno()]
            sent = socket.send_fds(self._connection, [request], descriptors)
            self._connection.sendall(request[sent:])
            answer = self._answer(seconds=_CONNECT_SECONDS)
            if answer is None:
                raise TimeoutError(f"no answer within {_CONNECT_SECONDS} s")
            self.pid: int = answer["pid"]
        except (OSError, KeyError) as error:
            self.stdin.close()
            self._connection.close()
            raise OSError(f"the fork server at {server} does not answer: {error}") from error
        finally:
            os.close(read_end)

    def poll(self) -> int | None:
        """Return the exit code, minus the signal if one killed it, or None while it runs."""
        return self._look(seconds=0)

    def wait(self) -> int:
        """Return the exit code once there is one."""
        code = self._look(seconds=None)
        assert code is not None, "a wait without end has ended"
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Signal the process, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def close(self) -> None:
        """Let the server forget the process."""
        self._connection.close()

    def _look(self, *, seconds: float | None) -> int | None:
        if self.returncode is None and (answer := self._answer(seconds=seconds)) is not None:
            # Without a code the server is gone, and how the process ended with it.
            self.returncode = answer.get("code", 1)
        return self.returncode

    def _answer(self, *, seconds: float | None) -> dict[str, int] | None:
        """Return the server's next answer, {} if it is gone, None if there is none in time."""
        self._connection.settimeout(seconds)
        while b"\n" not in self._answers:
            try:
                received = self._connection.recv(4096)
            except (TimeoutError, BlockingIOError):
                return None
            except ConnectionError:
                return {}
            if not received:
                return {}
            self._answers += received
        line, _, self._answers = self._answers.partition(b"\n")
        answer: dict[str, int] = json.loads(line)
        return answer
