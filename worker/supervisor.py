"""Watching over a training process: carrying what it says, and making it end when it has to."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import assert_never

from sqlalchemy.exc import OperationalError

from jobs.records import Job
from jobs.settings import Settings
from jobs.states import State
from trainer_core.run_directory import RunDirectory, StopRequest
from worker.endings import Stop
from worker.lease import Lease
from worker.process import TrainingProcess
from worker.pump import Pump
from worker.receipts import Asked

_TURN_SECONDS = 0.25

_log = logging.getLogger(__name__)


class Stopped(Exception):
    """The job is to stop while no training process could be asked to."""

    def __init__(self, stop: Stop) -> None:
        super().__init__(stop)
        self.stop = stop


@dataclass(slots=True)
class Supervisor:
    """Obeys what is asked of an attempt, with a training process or without."""

    job: Job
    settings: Settings
    lease: Lease
    is_draining: Callable[[], bool]  # whether the worker wants to leave
    on_first_step: Callable[[], object]  # called often from then on, unless the worker leaves
    asked: Asked | None = field(default=None, init=False)  # when it first was, if a process was
    _stop: Stop | None = field(default=None, init=False)
    _deadline: float = field(default=float("inf"), init=False)
    _leaving_at: float | None = field(default=None, init=False)  # when the worker wants to be gone

    @property
    def stall_seconds(self) -> float:
        """How long the process may get no further."""
        limit = self.job.spec["resources"].get("max_stall_seconds")
        return self.settings.stall_seconds if limit is None else float(limit)

    @property
    def seconds_left(self) -> float:
        """How long what has ended may take to be put away."""
        until = min(self._deadline, self._leaving_at or float("inf"))
        return max(0.0, min(until - time.monotonic(), self.settings.drain_grace_seconds))

    def is_wanted(self) -> bool:
        """Return whether the job is still held and not to be dropped."""
        return not self.lease.is_lost and self._wanted() not in (Stop.CANCEL, Stop.KEEP)

    def check_preparing(self, run: RunDirectory) -> None:
        """Raise if the job is lost, or is to stop, before its process runs.

        What an earlier attempt has learnt is kept by the process, if it is to be kept.
        """
        self.lease.check()
        stop = self._wanted()
        if stop and not (stop is Stop.KEEP and run.has_checkpoints):
            raise Stopped(stop)

    def check_storing(self) -> None:
        """Raise if the job is lost, or is to stop, while its model is stored."""
        self.lease.check()
        stop = self._wanted()
        if stop and stop is not Stop.KEEP:
            raise Stopped(stop)

    def watch(self, process: TrainingProcess, pump: Pump) -> Stop | None:
        """Pump until the process has ended; return why it was to, if it was."""
        started = time.monotonic()
        life = LifeSigns(pump.run.events)
        while process.poll() is None:
            self.lease.check()
            try:
                pump.turn()
            except OperationalError as error:  # the lease says for how long to go on without it
                _log.warning("the database is out of reach: %s", error.orig)
            if pump.first_step is not None and not self.is_draining():
                self.on_first_step()
            life.look()
            self._obey(process, pump.run, life, seconds=time.monotonic() - started)
            if time.monotonic() > self._deadline:
                process.kill()
            time.sleep(_TURN_SECONDS)
        return self._stop or self._wanted()  # it may have been asked by the same signal as we

    def _obey(
        self, process: TrainingProcess, run: RunDirectory, life: "LifeSigns", *, seconds: float
    ) -> None:
        if self.is_draining() and self._leaving_at is None:
            self._leaving_at = time.monotonic() + self.settings.drain_grace_seconds
            self._deadline = min(self._deadline, self._leaving_at)
        wanted = self._wanted() or self._over(life, seconds=seconds)
        if wanted is None or wanted is self._stop or not _is_ready(wanted, run):
            return
        if self._stop is Stop.STALL and wanted is not Stop.CANCEL:
            return
        if wanted is Stop.STALL:
            process.tell_stacks()
        self._deadline = time.monotonic() + _grace_seconds(wanted, self.settings)
        if self._leaving_at is not None:
            self._deadline = min(self._deadline, self._leaving_at)
        self._stop = wanted
        self.asked = self.asked or Asked(process)
        is_saving = wanted not in (Stop.CANCEL, Stop.KEEP)
        run.request_stop(StopRequest(wanted, is_saving=is_saving, is_finishing=wanted is Stop.KEEP))
        process.ask_to_stop()

    def _over(self, life: "LifeSigns", *, seconds: float) -> Stop | None:
        limit = self.job.spec["resources"]["max_runtime_seconds"]
        if limit is not None and seconds > limit:
            return Stop.MAX_RUNTIME
        return Stop.STALL if life.seconds_since > self.stall_seconds else None

    def _wanted(self) -> Stop | None:
        held = self.lease.held
        match held.state:
            case State.CANCELLING:
                return Stop.KEEP if held.keep else Stop.CANCEL
            case State.PAUSING:
                return Stop.PAUSE
            case _:
                return Stop.DRAIN if self.is_draining() else None


def _grace_seconds(stop: Stop, settings: Settings) -> float:
    match stop:
        case Stop.CANCEL | Stop.STALL:  # what hangs is not waited for
            return settings.cancel_grace_seconds
        case Stop.KEEP:
            return settings.keep_grace_seconds
        case Stop.PAUSE | Stop.DRAIN | Stop.MAX_RUNTIME:
            return settings.drain_grace_seconds
        case _:
            assert_never(stop)


def _is_ready(wanted: Stop, run: RunDirectory) -> bool:
    """Return whether a process can be asked now: before it listens, SIGTERM just ends it.

    So it is to, unless an earlier attempt left it something to make a model of.
    """
    return wanted is not Stop.KEEP or run.events.exists() or not run.has_checkpoints


class LifeSigns:
    """When a training process last got further: it writes an event then.

    What it prints does not count, since a process may well complain of what it hangs on; nor does
    what the database was told, which may be out of reach.
    """

    def __init__(self, events: Path) -> None:
        self._events = events
        self._size = self._size_now()
        self._at = time.monotonic()

    @property
    def seconds_since(self) -> float:
        """Seconds since the latest sign that was seen, or since it was first looked for."""
        return time.monotonic() - self._at

    def look(self) -> None:
        """Look for a sign."""
        size = self._size_now()
        if size != self._size:
            self._size, self._at = size, time.monotonic()

    def _size_now(self) -> int:
        return self._events.stat().st_size if self._events.exists() else 0
