"""The process in which a finished model answers, seen from the worker."""

import contextlib
import json
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs.settings import Settings
from trainer_core.errors import PredictionFailed
from trainer_core.predictions import MAX_SECONDS, Question
from worker.process import TrainingProcess

_START_SECONDS = 300  # importing torch takes most of it, on a slow machine
_LOOK_SECONDS = 0.5


class AnsweringProcess:
    """A training process that does not train: it takes questions over a socket."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        """Start it and wait until it can be asked; PredictionFailed if it can't.

        Args:
            settings: threads, and where to find a fork server.
            folder: for its log.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Below /tmp, since the address of a socket has at most 107 bytes.
        with tempfile.TemporaryDirectory(prefix="luthier-") as place:
            path = Path(place) / "socket"
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(path))
                listener.listen(1)
                self._process = TrainingProcess(
                    log=settings.home / "logs" / "predicting.log",
                    num_threads=settings.num_training_threads,
                    fork_server=settings.fork_server if settings.predict == "cpu" else None,
                )
                self._process.answer(folder, socket=path)
                self._connection = self._accepted(listener)
        self._read = b""

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked again."""
        return self._process.poll() is None

    def ask(self, question: Question) -> Iterator[dict[str, Any]]:
        """Yield the pieces of its answer; the last has `outputs` or an `error`.

        Raises:
            PredictionFailed: it died, or did not answer in time and was killed.
        """
        deadline = time.monotonic() + MAX_SECONDS
        self._connection.settimeout(_LOOK_SECONDS)
        try:
            self._connection.sendall(json.dumps(question.to_dict()).encode() + b"\n")
        except OSError as error:
            raise self._failed("has ended") from error
        while True:
            message = json.loads(self._line(deadline))
            yield message
            if "text" not in message:
                return

    def close(self) -> None:
        """End it."""
        self._process.kill()
        with contextlib.suppress(OSError):
            self._connection.close()

    def _accepted(self, listener: socket.socket) -> socket.socket:
        deadline = time.monotonic() + _START_SECONDS
        listener.settimeout(_LOOK_SECONDS)
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(TimeoutError):
                return listener.accept()[0]
        code = self._process.kill()
        raise PredictionFailed(f"the model's process did not start: exit code {code}.")

    def _line(self, deadline: float) -> bytes:
        while b"\n" not in self._read:
            if time.monotonic() > deadline:
                raise self._failed(f"did not answer within {MAX_SECONDS} s")
            try:
                more = self._connection.recv(1 << 16)
            except TimeoutError:
                continue
            except OSError as error:
                raise self._failed("has ended") from error
            if not more:
                raise self._failed("has ended")
            self._read += more
        line, _, self._read = self._read.partition(b"\n")
        return line

    def _failed(self, what: str) -> PredictionFailed:
        self.close()
        return PredictionFailed(
            f"the model's process {what}.",
            hint="The model may be too large for this machine; ask for less.",
        )
