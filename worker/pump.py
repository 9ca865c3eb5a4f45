"""Carries what a training process writes to the database and to those who watch."""

import logging
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jobs.records import Job
from jobs.store import attempts, events
from jobs.store.events import NewEvent
from jobs.transaction import Database
from trainer_core.events import EventType, decode_line
from trainer_core.run_directory import RunDirectory, read_json

MAX_LOG_LINES = 5_000  # an attempt
MAX_LOG_LINE_CHARACTERS = 2_000
_READ_BYTES = 1 << 20  # at most so much of a file a turn

_log = logging.getLogger(__name__)
_TERMINAL_CODES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


@dataclass(slots=True)
class _Tail:
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
class Pump:
    """Carries one attempt's events and log lines, in order.

    Each is kept once, except where the answer to a commit was lost: those are kept twice, under new
    numbers, rather than never.
    """

    database: Database
    job: Job
    run: RunDirectory
    first_step: int | None = None
    last_step: int | None = None
    phase: str | None = None
    _metrics: dict[str, Any] = field(default_factory=dict)
    _num_log_lines: int = 0
    _is_resolved: bool = False
    _events: _Tail = field(init=False)
    _log: _Tail = field(init=False)

    def __post_init__(self) -> None:
        self._events = _Tail(self.run.events)
        self._log = _Tail(self.run.log)
        self._metrics = dict(self.job.metrics)

    def turn(self, *, is_last: bool = False) -> int:
        """Carry what is new, in one transaction, and return how many events that were.

        Raises:
            LeaseLost: the attempt no longer holds the job.
        """
        marks = self._events.offset, self._log.offset, self._num_log_lines
        try:
            new = self._new_events(is_last=is_last)
            values = self._notes(new)
            if not new and not values:
                return 0
            with self.database.transaction() as tx:
                events.append(tx, self.job.id, new, attempt=self.job.attempt)
                if values:
                    attempts.note(tx, self.job.id, attempt=self.job.attempt, values=values)
        except BaseException:
            # Nothing was kept: read it again.
            self._events.offset, self._log.offset, self._num_log_lines = marks
            raise
        self._is_resolved = self._is_resolved or "resolved" in values
        return len(new)

    def drain(self) -> None:
        """Carry all that is left, once the process has ended."""
        while self.turn(is_last=True):
            continue

    def say(self, kind: EventType, data: dict[str, Any]) -> None:
        """Add an event of the worker's own."""
        with self.database.transaction() as tx:
            events.append(tx, self.job.id, [NewEvent(kind, data)], attempt=self.job.attempt)

    def last_log_lines(self, count: int) -> list[str]:
        """Return the end of the log, for an error that has no other words."""
        if not self.run.log.exists():
            return []
        with self.run.log.open("rb") as file:
            file.seek(max(0, self.run.log.stat().st_size - _READ_BYTES // 8))
            return [_printable(line) for line in file.read().splitlines()[-count:]]

    def _new_events(self, *, is_last: bool) -> list[NewEvent]:
        new = [self._log_event(line) for line in self._log.read(is_last=is_last)]
        kept = [event for event in new if event is not None]
        for raw in self._events.read(is_last=is_last):
            try:
                line = decode_line(raw.decode("utf-8"))
            except ValueError:  # a process that was killed in mid-line
                _log.warning("%s: not an event: %r", self.job.id, raw[:200])
                continue
            kept.append(NewEvent(line.type, line.data, line.at))
        return kept

    def _log_event(self, raw: bytes) -> NewEvent | None:
        text = _printable(raw)
        if not text.strip():
            return None
        self._num_log_lines += 1
        if self._num_log_lines > MAX_LOG_LINES:
            if self._num_log_lines > MAX_LOG_LINES + 1:
                return None
            text = f"more than {MAX_LOG_LINES} log lines: the rest is not kept"
        return NewEvent(
            EventType.LOG, {"message": text, "fields": {"source": "process"}}, datetime.now(UTC)
        )

    def _notes(self, new: list[NewEvent]) -> dict[str, Any]:
        """Return the columns of the job that these events change."""
        values: dict[str, Any] = {}
        for event in new:
            match event.type:
                case EventType.PHASE:
                    values["phase"] = self.phase = event.data["phase"]
                case EventType.PROGRESS:
                    values["progress"] = event.data
                    self.last_step = event.data["step"]
                    self.first_step = self.last_step if self.first_step is None else self.first_step
                case EventType.METRICS:
                    split = event.data["split"]
                    self._metrics = self._metrics | {
                        split: {
                            **self._metrics.get(split, {}),
                            **event.data["metrics"],
                            "step": event.data["step"],
                        }
                    }
                    values["metrics"] = self._metrics
                case _:
                    continue
        if not self._is_resolved and self.run.resolved.exists():
            values["resolved"] = read_json(self.run.resolved)
        return values


def _printable(line: bytes) -> str:
    """Return a log line as text: no terminal codes, of progress bars the last state only."""
    text = _TERMINAL_CODES.sub("", line.decode("utf-8", errors="replace"))
    return text.rstrip("\r").rpartition("\r")[2][:MAX_LOG_LINE_CHARACTERS]
