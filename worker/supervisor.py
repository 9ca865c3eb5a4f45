"""Watching over a training process: carrying what it says, and making it end when it has to."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

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

    def check(self) -> None:
        """Raise if the job is lost, or is to stop, while no process runs."""
        self.lease.check()
        if stop := self._wanted():
            raise Stopped(stop)

    def watch(self, process: TrainingProcess, pump: Pump) -> Stop | None:
        """Pump until the process has ended; return why it was made to, if it was."""
        started = time.monotonic()
        while process.poll() is None:
            self.lease.check()
            try:
                pump.turn()
            except OperationalError as error:  # the lease says for how long to go on without it
                _log.warning("the database is out of reach: %s", error.orig)
            if pump.first_step is not None and not self.is_draining():
                self.on_first_step()
            self._obey(process, pump, seconds=time.monotonic() - started)
            if time.monotonic() > self._deadline:
                process.kill()
            time.sleep(_TURN_SECONDS)
        return self._stop

    def _obey(self, process: TrainingProcess, pump: Pump, *, seconds: float) -> None:
        limit = self.job.spec["resources"]["max_runtime_seconds"]
        is_over = limit is not None and seconds > limit
        wanted = self._wanted() or (Stop.MAX_RUNTIME if is_over else None)
        if wanted is None or wanted is self._stop or self._stop is Stop.CANCEL:
            return
        self._stop = wanted
        is_saving = wanted is not Stop.CANCEL
        settings = self.settings
        grace = settings.drain_grace_seconds if is_saving else settings.cancel_grace_seconds
        self._deadline = time.monotonic() + grace
        pump.run.request_stop(StopRequest(wanted, is_saving=is_saving))
        process.ask_to_stop()

    def _wanted(self) -> Stop | None:
        if self.lease.is_cancelled:
            return Stop.CANCEL
        return Stop.DRAIN if self.is_draining() else None
