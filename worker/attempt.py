"""One attempt at a job, from the claim to the state in which it leaves the job."""

import errno
import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy.exc import DBAPIError, OperationalError

from jobs.backends import Backends
from jobs.records import Job
from jobs.states import FINAL, State
from jobs.store import artifacts, attempts, events, jobs
from jobs.store.attempts import Steps
from jobs.store.events import LeaseLost, NewEvent
from trainer_core.errors import (
    DiskFull,
    InternalError,
    LuthierError,
    MaxRuntimeReached,
    ProcessDied,
    ServiceUnavailable,
    TypedError,
)
from trainer_core.events import EventType, Phase
from trainer_core.run_directory import (
    Outcome,
    Result,
    RunDirectory,
    StopRequest,
    verified_manifest,
)
from worker.inputs import Needs, directory_of, prepare, read_needs
from worker.lease import Lease
from worker.outputs import forget_files, store_model, tidy
from worker.process import TrainingProcess
from worker.pump import Pump
from worker.spare import Spare

_TURN_SECONDS = 0.25
_NUM_LAST_LINES = 20
_RETRY_GROWTH = 6

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Stop(StrEnum):
    """Why a worker ends what would have gone on."""

    CANCEL = "cancel"
    DRAIN = "drain"
    MAX_RUNTIME = "max_runtime"


class Stopped(Exception):
    """The job is to stop while no training process could be asked to."""

    def __init__(self, stop: Stop) -> None:
        super().__init__(stop)
        self.stop = stop


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt leaves its job."""

    state: State
    reason: str
    error: TypedError | None = None
    outcome: Outcome | None = None
    is_counted: bool = True  # against the cap on attempts


_CANCELLED = Ending(State.CANCELLED, "cancelled by request")
_DRAINED = Ending(State.QUEUED, "the worker stopped", is_counted=False)


@dataclass(slots=True)
class Attempt:
    """Carries out one attempt."""

    backends: Backends
    job: Job
    spare: Spare
    device: str | None
    is_draining: Callable[[], bool]  # whether the worker wants to leave
    _process: TrainingProcess | None = field(default=None, init=False)
    _is_fit: bool = field(default=True, init=False)

    def carry_out(self) -> bool:
        """Bring the job to its next resting state; return whether this worker is fit for more.

        Never raises for what a job can do.
        """
        _log.info(
            "attempt %d of %s begins",
            self.job.attempt,
            self.job.id,
            extra={"action": "attempt_started", "job_id": self.job.id},
        )
        run = RunDirectory(directory_of(self.backends, self.job))
        ending: Ending | None = None
        lease = Lease(
            self.backends.database,
            self.job,
            seconds=self.backends.settings.lease_seconds,
            on_loss=self._kill,
        )
        with lease:
            try:
                ending = self._run(run, lease)
            except LeaseLost:
                _log.warning("attempt %d of %s was overtaken", self.job.attempt, self.job.id)
            except DBAPIError:
                # The lease runs out, and the sweeper gives the job to somebody.
                _log.exception("the database was lost during %s", self.job.id)
            finally:
                self._kill()
        if ending is not None and ending.state in FINAL:
            tidy(run, is_keeping_records=ending.state is not State.SUCCEEDED)
        return self._is_fit and ending is not None

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def _run(self, run: RunDirectory, lease: Lease) -> Ending:
        pump = Pump(self.backends.database, self.job, run)
        rows: list[dict[str, Any]] = []
        try:
            ending = self._train(run, pump, lease)
            if ending.state is State.SUCCEEDED:
                self._say_phase(pump, lease, Phase.PUBLISHING)
                rows = store_model(self.backends, self.job, run, check=lambda: self._check(lease))
        except Stopped as stopped:
            ending = _CANCELLED if stopped.stop is Stop.CANCEL else _DRAINED
        except LuthierError as error:
            ending = self._failure(error.to_typed())
        except (LeaseLost, DBAPIError):
            raise
        except OSError as error:
            _log.exception("this worker could not work on %s", self.job.id)
            self._is_fit = False
            ending = self._failure(_fault_of_worker(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, the job must not hang
            _log.exception("the worker failed on %s", self.job.id)
            self._is_fit = False
            fault = InternalError(f"the worker failed: {type(error).__name__}: {error}")
            ending = self._failure(fault.to_typed())
        self._kill()
        return self._end(pump, lease, ending, rows)

    def _train(self, run: RunDirectory, pump: Pump, lease: Lease) -> Ending:
        """Prepare the run, train, and return how that ended."""
        self._say_phase(pump, lease, Phase.PREPARING)
        needs: Needs = _persist(lambda: read_needs(self.backends, self.job), lease)
        with prepare(
            self.backends, self.job, needs, device=self.device, check=lambda: self._check(lease)
        ):
            if _is_trained(run):
                return Ending(State.SUCCEEDED, "trained", outcome=run.read_outcome())
            run.outcome.unlink(missing_ok=True)
            process = self._process = self.spare.take()
            process.start(run.path, trackers=self.job.spec["tracking"])
            stop = self._supervise(process, pump, lease)
            exit_code = process.kill()
            lease.check()
            _persist(pump.drain, lease)
        return self._ending(run, pump, stop=stop, exit_code=exit_code)

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
            if pump.first_step is not None and not self.is_draining():
                self.spare.refill()
            now = time.monotonic()
            is_over = limit is not None and now - started > limit
            wanted = self._wanted_stop(lease) or (Stop.MAX_RUNTIME if is_over else None)
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

    def _wanted_stop(self, lease: Lease) -> Stop | None:
        if lease.is_cancelled:
            return Stop.CANCEL
        return Stop.DRAIN if self.is_draining() else None

    def _check(self, lease: Lease) -> None:
        """Raise if the job is lost, or is to stop, while no process runs."""
        lease.check()
        if stop := self._wanted_stop(lease):
            raise Stopped(stop)

    def _ending(
        self, run: RunDirectory, pump: Pump, *, stop: Stop | None, exit_code: int
    ) -> Ending:
        outcome = run.read_outcome()
        if stop is Stop.CANCEL:
            return _CANCELLED
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
            return self._failure(error.to_typed())
        if stop is Stop.DRAIN:
            return _DRAINED
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

    def _end(self, pump: Pump, lease: Lease, ending: Ending, rows: list[dict[str, Any]]) -> Ending:
        """Move the job on, as often as the database needs, and return how it ended."""
        try:
            _persist(lambda: self._move(ending, pump, rows), lease)
        except LeaseLost:
            return self._settle(pump, lease, ending, rows)
        lease.let_go()
        return ending

    def _settle(
        self, pump: Pump, lease: Lease, ending: Ending, rows: list[dict[str, Any]]
    ) -> Ending:
        """Find out from the database why the job could not be moved on.

        Nothing is deleted that a row names: the commit may have gone through and its answer not.
        """
        with self.backends.database.transaction() as tx:
            now = jobs.get_any(tx, self.job.id)
            kept = {file.key for file in artifacts.of_job(tx, self.job.id)}
        is_ours = now.attempt == self.job.attempt
        if is_ours and now.state is ending.state:
            return ending
        forget_files(self.backends, [row["key"] for row in rows if row["key"] not in kept])
        if not is_ours or now.state is not State.CANCELLING:
            raise LeaseLost(f"{self.job.id} is {now.state}, in attempt {now.attempt}")
        # It was cancelled after the process had ended: nothing else may come of it.
        _persist(lambda: self._move(_CANCELLED, pump, []), lease)
        return _CANCELLED

    def _move(self, ending: Ending, pump: Pump, rows: list[dict[str, Any]]) -> None:
        values: dict[str, Any] = {}
        again_in_seconds = 0.0
        if ending.state is State.SUCCEEDED:
            assert ending.outcome is not None, "a success without an outcome"
            metrics = dict(ending.outcome.metrics)
            values["best"] = {"step": ending.outcome.best_step, "metrics": metrics}
        if ending.state is State.FAILED:
            assert ending.error is not None, "a failure without an error"
            values["error"] = ending.error.to_dict()
        if not ending.is_counted:
            values["max_attempts"] = self.job.max_attempts + 1
        elif ending.state is State.QUEUED:
            pause = self.backends.settings.retry_seconds
            again_in_seconds = pause * _RETRY_GROWTH ** (self.job.attempt - 1)
        with self.backends.database.transaction() as tx:
            if ending.error is not None:
                error = NewEvent(EventType.ERROR, ending.error.to_dict())
                events.append(tx, self.job.id, [error], attempt=self.job.attempt)
            attempts.end(
                tx,
                self.job.id,
                ending.state,
                attempt=self.job.attempt,
                reason=ending.reason,
                steps=Steps(pump.first_step, pump.last_step),
                values=values,
                again_in_seconds=again_in_seconds,
            )
            if rows:
                artifacts.add(tx, self.job.id, rows)

    def _say_phase(self, pump: Pump, lease: Lease, phase: Phase) -> None:
        _persist(lambda: pump.say(EventType.PHASE, {"phase": phase, "fraction": 0.0}), lease)


def _is_trained(run: RunDirectory) -> bool:
    """Return whether an earlier attempt had finished training, and only the storing failed."""
    outcome = run.read_outcome()
    return (
        outcome is not None
        and outcome.result is Result.SUCCEEDED
        and verified_manifest(run.model) is not None
    )


def _fault_of_worker(error: OSError) -> TypedError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"the worker's disk is full: {error}", hint="Free space there.").to_typed()
    return ServiceUnavailable(
        f"the worker could not work: {error}", hint="See the worker's log."
    ).to_typed()


def _persist(write: Callable[[], _T], lease: Lease) -> _T:
    """Do something with the database, again and again while it can't be reached.

    Raises:
        LeaseLost: the lease ran out over it.
    """
    while True:
        lease.check()
        try:
            return write()
        except OperationalError as error:
            _log.warning("the database is out of reach, trying again: %s", error.orig)
            time.sleep(1)
