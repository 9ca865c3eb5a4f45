"""One attempt at a job, from the claim to the state in which it leaves the job."""

import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy.exc import DBAPIError, OperationalError

from jobs.backends import Backends
from jobs.records import Job
from jobs.states import FINAL, State
from jobs.store import artifacts, attempts, events
from jobs.store.attempts import Steps
from jobs.store.events import LeaseLost, NewEvent
from trainer_core.errors import (
    InternalError,
    LuthierError,
    MaxRuntimeReached,
    ProcessDied,
    TypedError,
)
from trainer_core.events import EventType, Phase
from trainer_core.run_directory import Outcome, Result, RunDirectory, StopRequest
from worker.inputs import directory_of, prepare
from worker.lease import Lease
from worker.outputs import forget_model, store_model, tidy
from worker.process import TrainingProcess
from worker.pump import Pump
from worker.spare import Spare

_TURN_SECONDS = 0.25
_NUM_LAST_LINES = 20

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Stop(StrEnum):
    """Why a worker ends a process that would have gone on."""

    CANCEL = "cancel"
    DRAIN = "drain"
    MAX_RUNTIME = "max_runtime"


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt leaves its job."""

    state: State
    reason: str
    error: TypedError | None = None
    outcome: Outcome | None = None
    is_counted: bool = True  # against the cap on attempts


@dataclass(slots=True)
class Attempt:
    """Carries out one attempt; `is_draining` says when the worker wants to leave."""

    backends: Backends
    job: Job
    spare: Spare
    device: str | None

    def carry_out(self) -> None:
        """Bring the job to its next resting state. Never raises for what a job can do."""
        _log.info(
            "attempt %d of %s begins",
            self.job.attempt,
            self.job.id,
            extra={"action": "attempt_started", "job_id": self.job.id},
        )
        process = self.spare.take()
        settings = self.backends.settings
        with Lease(
            self.backends.database,
            self.job,
            seconds=settings.lease_seconds,
            on_loss=process.kill,
        ) as lease:
            try:
                self._run(process, lease)
            except LeaseLost:
                _log.warning("attempt %d of %s was overtaken", self.job.attempt, self.job.id)
            except DBAPIError:
                # The lease runs out, and the sweeper gives the job to somebody.
                _log.exception("the database was lost during %s", self.job.id)
            finally:
                process.kill()

    def _run(self, process: TrainingProcess, lease: Lease) -> None:
        run = RunDirectory(directory_of(self.backends, self.job))
        pump = Pump(self.backends.database, self.job, run)
        try:
            preparing = {"phase": Phase.PREPARING, "fraction": 0.0}
            _persist(lambda: pump.say(EventType.PHASE, preparing), lease)
            with prepare(self.backends, self.job, device=self.device):
                process.start(run.path, environment={})
                stop = self._supervise(process, pump, lease)
                exit_code = process.kill()
                lease.check()
                _persist(pump.drain, lease)
            ending = self._ending(run, pump, stop=stop, exit_code=exit_code)
        except LuthierError as error:
            process.kill()
            ending = self._failure(error.to_typed())
        except (LeaseLost, DBAPIError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the job must not hang
            _log.exception("the worker failed on %s", self.job.id)
            process.kill()
            fault = InternalError(f"the worker failed: {type(error).__name__}: {error}")
            ending = self._failure(fault.to_typed())
        self._end(run, pump, lease, ending)

    def _supervise(self, process: TrainingProcess, pump: Pump, lease: Lease) -> Stop | None:
        """Pump until the process has ended; return why it was made to, if it was."""
        settings = self.backends.settings
        limit = self.job.spec["resources"]["max_runtime_seconds"]
        started = time.monotonic()
        stop: Stop | None = None
        deadline = float("inf")
        while process.poll() is None:
            lease.check()
            try:
                pump.turn()
            except OperationalError as error:  # the lease says for how long to go on without it
                _log.warning("the database is out of reach: %s", error.orig)
            if pump.first_step is not None:
                self.spare.refill()
            now = time.monotonic()
            wanted = self._wanted_stop(lease, is_over=limit is not None and now - started > limit)
            if wanted is not None and stop is not Stop.CANCEL and wanted is not stop:
                stop = wanted
                is_saving = stop is not Stop.CANCEL
                grace = settings.drain_grace_seconds if is_saving else settings.cancel_grace_seconds
                deadline = now + grace
                pump.run.request_stop(StopRequest(stop, is_saving=is_saving))
                process.ask_to_stop()
            if now > deadline:
                process.kill()
            time.sleep(_TURN_SECONDS)
        return stop

    def _wanted_stop(self, lease: Lease, *, is_over: bool) -> Stop | None:
        if lease.is_cancelled:
            return Stop.CANCEL
        if is_over:
            return Stop.MAX_RUNTIME
        return Stop.DRAIN if self.spare.is_draining() else None

    def _ending(
        self, run: RunDirectory, pump: Pump, *, stop: Stop | None, exit_code: int
    ) -> Ending:
        outcome = run.read_outcome()
        if stop is Stop.CANCEL:
            return Ending(State.CANCELLED, "cancelled by request", outcome=outcome)
        if outcome is not None and outcome.result is Result.SUCCEEDED:
            return Ending(State.SUCCEEDED, "trained", outcome=outcome)
        if outcome is not None and outcome.result is Result.FAILED:
            assert outcome.error is not None, f"{run.outcome} says failed without an error"
            return self._failure(outcome.error)
        if stop is Stop.MAX_RUNTIME:
            limit = self.job.spec["resources"]["max_runtime_seconds"]
            error = MaxRuntimeReached(
                f"the attempt reached its limit of {limit} seconds.",
                hint="Raise resources.max_runtime_seconds, or train for fewer steps.",
                param="resources.max_runtime_seconds",
            )
            return Ending(State.FAILED, error.code, error=error.to_typed(), outcome=outcome)
        if stop is Stop.DRAIN:
            return Ending(State.QUEUED, "the worker stopped", outcome=outcome, is_counted=False)
        return self._failure(self._death(pump, exit_code).to_typed())

    def _death(self, pump: Pump, exit_code: int) -> ProcessDied:
        if exit_code < 0:
            how = f"was killed by {signal.Signals(-exit_code).name}"
        else:
            how = f"ended with exit code {exit_code} without saying how it went"
        return ProcessDied(
            f"the training process {how}, in attempt {self.job.attempt} "
            f"of {self.job.max_attempts}.",
            hint="If the machine ran out of memory, lower training.micro_batch_size.",
            detail={"exit_code": exit_code, "last_lines": pump.last_log_lines(_NUM_LAST_LINES)},
        )

    def _failure(self, error: TypedError) -> Ending:
        if error.retryable and self.job.attempt < self.job.max_attempts:
            return Ending(State.QUEUED, error.code, error=error)
        return Ending(State.FAILED, error.code, error=error)

    def _end(self, run: RunDirectory, pump: Pump, lease: Lease, ending: Ending) -> None:
        """Store what there is to store and move the job on, as often as the database needs."""
        rows: list[dict[str, Any]] = []
        if ending.state is State.SUCCEEDED:
            publishing = {"phase": Phase.PUBLISHING, "fraction": 0.0}
            _persist(lambda: pump.say(EventType.PHASE, publishing), lease)
            try:
                rows = store_model(self.backends, self.job, run, check=lease.check)
            except LuthierError as error:
                ending = self._failure(error.to_typed())
        try:
            job = _persist(lambda: self._move(ending, pump, rows), lease)
        except LeaseLost:
            forget_model(self.backends, rows)
            if lease.is_lost or lease.renew() is not State.CANCELLING:
                raise
            # It was cancelled after the process had ended: nothing else may come of it.
            cancelled = Ending(State.CANCELLED, "cancelled by request", outcome=ending.outcome)
            job = _persist(lambda: self._move(cancelled, pump, []), lease)
        self._tidy(run, job.state)

    def _move(self, ending: Ending, pump: Pump, rows: list[dict[str, Any]]) -> Job:
        values: dict[str, Any] = {}
        if ending.state is State.SUCCEEDED:
            assert ending.outcome is not None, "a success without an outcome"
            metrics = dict(ending.outcome.metrics)
            values["best"] = {"step": ending.outcome.best_step, "metrics": metrics}
        if ending.state is State.FAILED:
            assert ending.error is not None, "a failure without an error"
            values["error"] = ending.error.to_dict()
        if not ending.is_counted:
            values["max_attempts"] = self.job.max_attempts + 1
        with self.backends.database.transaction() as tx:
            if ending.error is not None:
                error = NewEvent(EventType.ERROR, ending.error.to_dict())
                events.append(tx, self.job.id, [error], attempt=self.job.attempt)
            if rows:
                artifacts.add(tx, self.job.id, rows)
            return attempts.end(
                tx,
                self.job.id,
                ending.state,
                attempt=self.job.attempt,
                reason=ending.reason,
                steps=Steps(pump.first_step, pump.last_step),
                values=values,
            )

    def _tidy(self, run: RunDirectory, state: State) -> None:
        if state in FINAL:
            tidy(run, is_keeping_records=state is not State.SUCCEEDED)


def _persist(write: Callable[[], _T], lease: Lease) -> _T:
    """Write to the database, again and again while it can't be reached and the lease is held."""
    while True:
        lease.check()
        try:
            return write()
        except OperationalError as error:
            _log.warning("the database is out of reach, trying again: %s", error.orig)
            time.sleep(1)
