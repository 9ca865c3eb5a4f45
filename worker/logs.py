"""Files that a training process appends to: read line by line, and kept from filling the disk.

The process writes to its log itself, in append mode: what it says in its last moment is there,
whoever is gone, and it never waits for a reader. So the log is cut from outside; what is written in
the very moment of a cut is lost.
"""

import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trainer_core.redaction import REDACTOR

MAX_LOG_BYTES = 32 << 20
MAX_LINE_CHARACTERS = 2_000
_HEAD_BYTES = 16 << 20  # of a log that is cut, how much stays of its beginning
_END_BYTES = 128 << 10  # and of its end
_READ_BYTES = 1 << 20  # at most so much of a file a turn
_LOOK_SECONDS = 0.05
_LINE_BYTES = 64 << 10  # of a line, at most so much is looked at

_TERMINAL_CODES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line end

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Tail:
    """Reads the whole lines that have been added to a file."""

    path: Path
    offset: int = 0

    def read(self, *, is_last: bool) -> list[bytes]:
        """Return the new lines; the unfinished one only if nothing more will come."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self.offset)
            block = file.read(_READ_BYTES)
        end = block.rfind(b"\n") + 1
        if not end and (is_last or len(block) == _READ_BYTES):
            end = len(block)  # a line without an end, or one too long to wait for
        self.offset += end
        return block[:end].removesuffix(b"\n").split(b"\n") if end else []


@dataclass(slots=True)
class LogTail(Tail):
    """A tail of a log whose middle is taken out whenever it has grown too long."""

    _num_cuts: int = 0
    _num_cuts_seen: int = 0

    def read(self, *, is_last: bool) -> list[bytes]:
        """Return the new lines, as a tail does; those that were cut out are passed over."""
        if self._num_cuts != self._num_cuts_seen:
            self._num_cuts_seen = self._num_cuts
            self.offset = min(self.offset, _HEAD_BYTES)  # where the log says that it was cut
        # Not `super()`, which a class with slots can't find.
        return Tail.read(self, is_last=is_last)

    def skip(self) -> None:
        """Pass over all that is there."""
        if self.path.exists():
            self.offset = self.path.stat().st_size

    def redact(self) -> None:
        """Take secrets out of the log; it is not read on from then."""
        if not self.path.exists():
            return
        text = self.path.read_text(encoding="utf-8", errors="surrogateescape")
        if (redacted := REDACTOR.text(text)) != text:
            self.path.write_text(redacted, encoding="utf-8", errors="surrogateescape")

    def last_lines(self, count: int) -> list[str]:
        """Return the end of the log as text."""
        return [printable(line) for line in _end_of(self.path).splitlines()[-count:]]

    @contextmanager
    def capped(self) -> Iterator[None]:
        """Keep the log from growing for as long as somebody writes to it."""
        ended = threading.Event()

        def cut_often() -> None:
            while not ended.wait(_LOOK_SECONDS):
                self.cut()

        # A thread of its own: the one that reads waits for the database.
        thread = threading.Thread(target=cut_often, name="log-cap", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.cut()

    def cut(self) -> None:
        """Take out the middle of the log if it is too long, and say so there."""
        try:
            size = self.path.stat().st_size if self.path.exists() else 0
            if size <= MAX_LOG_BYTES:
                return
            end = _end_of(self.path)
            num_cut = size - _HEAD_BYTES - len(end)
            os.truncate(self.path, _HEAD_BYTES)
            self._num_cuts += 1
            with self.path.open("ab") as file:
                file.write(b"\n[%d bytes of the log were cut out here]\n" % num_cut + end)
        except OSError as error:
            _log.warning("could not cut %s: %s", self.path, error)


def _end_of(path: Path) -> bytes:
    if not path.exists():
        return b""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _END_BYTES))
        return file.read(_END_BYTES)


def printable(line: bytes) -> str:
    """Return a log line as text: nothing that steers a terminal, of progress bars the last state.

    What can't be shown is there as U+FFFD.
    """
    text = _TERMINAL_CODES.sub("", line[:_LINE_BYTES].decode("utf-8", errors="replace"))
    shown = text.rstrip("\r").rpartition("\r")[2][:MAX_LINE_CHARACTERS]
    return _CONTROLS.sub("\ufffd", shown)
