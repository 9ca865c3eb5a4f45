"""Carries what a training process writes to the database and to those who watch."""

import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from jobs.records import Checkpoint, Job
from jobs.store import attempts, checkpoints, events
from jobs.store.attempts import Steps
from jobs.store.events import NewEvent
from jobs.transaction import Database
from trainer_core.events import EventType, decode_line
from trainer_core.redaction import REDACTOR
from trainer_core.run_directory import RunDirectory, read_json
from worker.logs import LogTail, Tail, printable

MAX_LOG_LINES = 5_000  # an attempt

_Marks = tuple[int, int, int]  # how much of the events, of the log, and how many lines of it

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Pump:
    """Carries one attempt's events and log lines, in order, and each once.

    Where the answer to a commit is lost, the database is asked whether the batch was kept.
    """

    database: Database
    job: Job
    run: RunDirectory
    first_step: int | None = None
    last_step: int | None = None
    phase: str | None = None
    _metrics: dict[str, Any] = field(default_factory=dict)
    _saved: dict[int, dict[str, Any]] = field(default_factory=dict)  # checkpoints, by step
    _num_log_lines: int = 0
    _is_resolved: bool = False
    _num_batches: int = 0
    _in_doubt: _Marks | None = None  # where it is if the last batch was kept
    _events: Tail = field(init=False)
    _log: LogTail = field(init=False)

    def __post_init__(self) -> None:
        self._events = Tail(self.run.events)
        self._log = LogTail(self.run.log)
        self._metrics = dict(self.job.metrics)

    def turn(self, *, is_last: bool = False) -> int:
        """Carry what is new, in one transaction, and return how many events that were.

        Raises:
            LeaseLost: the attempt no longer holds the job.
        """
        self._end_doubt()
        before = self._marks()
        try:
            new = self._new_events(is_last=is_last)
            values = self._notes(new)
            if not new and not values:
                return 0
            self._keep(new, values)
        except BaseException:
            self._in_doubt = self._marks()
            self._return_to(before)  # read it again
            raise
        self._num_batches += 1
        self._is_resolved = self._is_resolved or "resolved" in values
        return len(new)

    def _keep(self, new: list[NewEvent], values: dict[str, Any]) -> None:
        job_id, attempt = self.job.id, self.job.attempt
        with self.database.transaction() as tx:
            events.append(tx, job_id, new, attempt=attempt)
            if values:
                attempts.note(tx, job_id, attempt=attempt, values=values)
            number = self._num_batches + 1
            attempts.count_batch(tx, job_id, attempt=attempt, number=number, steps=self._steps)

    def _end_doubt(self) -> None:
        if self._in_doubt is None:
            return
        with self.database.transaction() as tx:
            num_kept = attempts.num_batches(tx, self.job.id, attempt=self.job.attempt)
        if num_kept > self._num_batches:
            self._num_batches = num_kept
            self._return_to(self._in_doubt)
        self._in_doubt = None

    def _marks(self) -> _Marks:
        return self._events.offset, self._log.offset, self._num_log_lines

    def _return_to(self, marks: _Marks) -> None:
        self._events.offset, self._log.offset, self._num_log_lines = marks

    def drain(self) -> None:
        """Carry all that is left, once the process has ended."""
        while self.turn(is_last=True):
            continue

    def say(self, kind: EventType, data: dict[str, Any]) -> None:
        """Add an event of the worker's own."""
        with self.database.transaction() as tx:
            events.append(tx, self.job.id, [NewEvent(kind, data)], attempt=self.job.attempt)

    def retire(self, checkpoint: Checkpoint) -> None:
        """Let a stored checkpoint go that is damaged."""
        with self.database.transaction() as tx:
            checkpoints.retire(tx, checkpoint, attempt=self.job.attempt)

    def said_of(self, step: int) -> dict[str, Any] | None:
        """Return what the process has said of a checkpoint, if it has."""
        return self._saved.get(step)

    def log_capped(self) -> AbstractContextManager[None]:
        """Return a context in which the log on disk grows no further than it may."""
        return self._log.capped()

    def redact_log(self) -> None:
        """Take secrets out of the log on disk, once nobody writes to it any more."""
        self._log.redact()

    def last_log_lines(self, count: int) -> list[str]:
        """Return the end of the log, for an error that has no other words."""
        return self._log.last_lines(count)

    @property
    def _steps(self) -> Steps | None:
        if self.first_step is None or self.last_step is None:
            return None
        return Steps(self.first_step, self.last_step)

    def _new_events(self, *, is_last: bool) -> list[NewEvent]:
        kept = self._new_log_events(is_last=is_last)
        for raw in self._events.read(is_last=is_last):
            try:
                line = decode_line(raw.decode("utf-8"))
            except ValueError:  # a process that was killed in mid-line
                _log.warning("%s: not an event: %r", self.job.id, raw[:200])
                continue
            kept.append(NewEvent(line.type, REDACTOR.value(line.data), line.at))
        return kept

    def _new_log_events(self, *, is_last: bool) -> list[NewEvent]:
        if self._num_log_lines > MAX_LOG_LINES:
            self._log.skip()
            return []
        new = [self._log_event(line) for line in self._log.read(is_last=is_last)]
        return [event for event in new if event is not None]

    def _log_event(self, raw: bytes) -> NewEvent | None:
        text = REDACTOR.text(printable(raw))
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
                case EventType.CHECKPOINT:
                    self._saved[event.data["step"]] = event.data
                case _:
                    continue
        if not self._is_resolved and self.run.resolved.exists():
            values["resolved"] = REDACTOR.value(read_json(self.run.resolved))
        return values
