"""The two ways in which a process of `trainer_core.training` comes to be: executed, or forked."""

import json
import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, BinaryIO, Protocol

from trainer_core import memory
from trainer_core.failpoints import VARIABLE as FAILPOINTS

_CONNECT_SECONDS = 10
_KEPT_VARIABLES = (
    "PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH",
    "VIRTUAL_ENV", "CUDA_HOME", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES",
    "PYTORCH_CUDA_ALLOC_CONF", "OPENBLAS_CORETYPE", FAILPOINTS,
)  # fmt: skip
"""Nothing else of this process's environment reaches a child: no database, no secret."""


def training_environment(num_threads: int) -> dict[str, str]:
    """Return the environment of a child that computes on so many threads."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return kept | {
        "OMP_NUM_THREADS": str(num_threads),
        "MKL_NUM_THREADS": str(num_threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }


class Child(Protocol):
    """A process that was just started, the leader of a session of its own."""

    pid: int
    stdin: IO[bytes]
    peak_bytes: int
    """The most memory that one process of it had, once it has ended; 0 where nobody tells. No less
    than what this process had at the start: until it ran its own program it was a copy of it."""

    def poll(self) -> int | None:
        """Return the exit code, minus the signal if one killed it, or None while it runs."""

    def wait(self) -> int:
        """Return the exit code once there is one."""

    def close(self) -> None:
        """Let go of what was held for it, once its exit code is known."""


class ExecutedChild:
    """A child that runs a program of its own."""

    def __init__(
        self, command: Sequence[str], *, output: BinaryIO, environment: Mapping[str, str]
    ) -> None:
        """Execute it; OSError if the system does not.

        Args:
            command: program and arguments.
            output: where it prints to.
            environment: its variables.
        """
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
        assert self._process.stdin is not None, "it has a pipe"
        self.pid = self._process.pid
        self.stdin: IO[bytes] = self._process.stdin
        self.peak_bytes = 0

    def poll(self) -> int | None:
        return self._look(os.WNOHANG)

    def wait(self) -> int:
        code = self._look(0)
        assert code is not None, "a wait came back without an exit code"
        return code

    def close(self) -> None:
        """Nothing is held."""

    def _look(self, options: int) -> int | None:
        """Wait as `os.wait4` does: no other call tells how much memory the dead had."""
        if self._process.returncode is None:
            pid, status, usage = os.wait4(self.pid, options)
            if pid:
                self._process.returncode = os.waitstatus_to_exitcode(status)
                self.peak_bytes = memory.from_max_rss(usage.ru_maxrss)
        return self._process.returncode


class ForkedChild:
    """A child of the fork server (`trainer_core/training/fork_server.py` has the protocol)."""

    def __init__(self, server: Path, *, output: BinaryIO, environment: Mapping[str, str]) -> None:
        """Have it forked; OSError if the server does not answer.

        Args:
            server: the server's socket.
            output: where the process prints to at first.
            environment: its variables.
        """
        self.peak_bytes = 0
        self._code: int | None = None
        self._answers = b""
        self._connection = socket.socket(socket.AF_UNIX)
        read_end, write_end = os.pipe()
        self.stdin: IO[bytes] = os.fdopen(write_end, "wb")
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
        return self._look(seconds=0)

    def wait(self) -> int:
        code = self._look(seconds=None)
        assert code is not None, "a wait without end has ended"
        return code

    def close(self) -> None:
        """Let the server forget the process."""
        self._connection.close()

    def _look(self, *, seconds: float | None) -> int | None:
        if self._code is None and (answer := self._answer(seconds=seconds)) is not None:
            # Without a code the server is gone, and how the process ended with it.
            self._code = answer.get("code", 1)
        return self._code

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
