"""Watching over a training process: carrying what it says, and making it end when it has to."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.exc import OperationalError

from jobs.records import Job
from jobs.settings import Settings
from trainer_core.run_directory import StopRequest
from worker.endings import Stop
from worker.lease import Lease
from worker.process import TrainingProcess
from worker.pump import Pump

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
    _stop: Stop | None = field(default=None, init=False)
    _deadline: float = field(default=float("inf"), init=False)

    @property
    def stall_seconds(self) -> float:
        """How long the process may get no further."""
        limit = self.job.spec["resources"].get("max_stall_seconds")
        return self.settings.stall_seconds if limit is None else float(limit)

    def check(self) -> None:
        """Raise if the job is lost, or is to stop, while no process runs."""
        self.lease.check()
        if stop := self._wanted():
            raise Stopped(stop)

    def watch(self, process: TrainingProcess, pump: Pump) -> Stop | None:
        """Pump until the process has ended; return why it was made to, if it was."""
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
            self._obey(process, pump, life, seconds=time.monotonic() - started)
            if time.monotonic() > self._deadline:
                process.kill()
            time.sleep(_TURN_SECONDS)
        return self._stop

    def _obey(
        self, process: TrainingProcess, pump: Pump, life: "LifeSigns", *, seconds: float
    ) -> None:
        wanted = self._wanted() or self._over(life, seconds=seconds)
        if wanted is None or wanted is self._stop or self._stop is Stop.CANCEL:
            return
        if self._stop is Stop.STALL and wanted is not Stop.CANCEL:
            return
        self._stop = wanted
        is_saving = wanted is not Stop.CANCEL
        if wanted is Stop.STALL:
            process.tell_stacks()
        self._deadline = time.monotonic() + self._grace_seconds(wanted)
        pump.run.request_stop(StopRequest(wanted, is_saving=is_saving))
        process.ask_to_stop()

    def _over(self, life: "LifeSigns", *, seconds: float) -> Stop | None:
        limit = self.job.spec["resources"]["max_runtime_seconds"]
        if limit is not None and seconds > limit:
            return Stop.MAX_RUNTIME
        return Stop.STALL if life.seconds_since > self.stall_seconds else None

    def _grace_seconds(self, stop: Stop) -> float:
        if stop in (Stop.CANCEL, Stop.STALL):  # what hangs is not waited for
            return self.settings.cancel_grace_seconds
        return self.settings.drain_grace_seconds

    def _wanted(self) -> Stop | None:
        if self.lease.is_cancelled:
            return Stop.CANCEL
        return Stop.DRAIN if self.is_draining() else None


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
