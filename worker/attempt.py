"""One attempt at a job, from the claim to the state in which it leaves the job."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from sqlalchemy.exc import DBAPIError

from jobs.backends import Backends
from jobs.records import Checkpoint, Job
from jobs.retrying import pause_seconds
from jobs.states import FINAL, State
from jobs.store import artifacts, attempts, checkpoints, events, jobs, pushes
from jobs.store.attempts import Held
from jobs.store.events import LeaseLost, NewEvent
from jobs.transaction import Transaction
from trainer_core.errors import DiskFull, InternalError, LuthierError
from trainer_core.events import EventType, Phase
from trainer_core.failpoints import failpoint
from trainer_core.redaction import REDACTOR
from trainer_core.run_directory import RunDirectory, checkpoints_in, read_json
from trainer_core.spec import parse_spec
from worker.endings import (
    BY_STOP,
    Ending,
    Exit,
    Stop,
    as_asked,
    ending_of,
    failure_of,
    fault_of_worker,
)
from worker.inputs import Needs, directory_of, prepare, read_needs
from worker.lease import Lease
from worker.memory import MemoryWatch
from worker.outputs import forget_unnamed, make_room, store_model, tidy
from worker.process import TrainingProcess
from worker.pump import Pump
from worker.receipts import NO_PROCESS, Receipt
from worker.restoring import is_trained, restore
from worker.spare import Spare
from worker.storing import CheckpointStore, is_stored
from worker.supervisor import Stopped, Supervisor

_NUM_LAST_LINES = 20
_NUM_STACK_LINES = 200
_PHASES_OF_TRAINING = (Phase.TRAINING, Phase.EVALUATING, Phase.SAVING)

_log = logging.getLogger(__name__)


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
    _receipt: Receipt | None = field(default=None, init=False)  # of a process that was stopped

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
        failpoint("worker.ended")
        if ending is not None and ending.state in FINAL:
            is_keeping = self.backends.settings.keep_failed_days > 0
            tidy(run, state=ending.state, is_keeping_checkpoint=is_keeping)
        if ending is not None and ending.error and ending.error.code == DiskFull.code:
            make_room(self.backends)
        return self._is_fit and ending is not None

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def _run(self, run: RunDirectory, lease: Lease) -> Ending:
        pump = Pump(self.backends.database, self.job, run)
        supervisor = self._supervisor(lease)
        rows: list[dict[str, Any]] = []
        try:
            ending = self._train(run, pump, supervisor)
            if ending.outcome is not None:
                self._say_phase(pump, lease, Phase.PUBLISHING)
                rows = store_model(self.backends, self.job, run, check=supervisor.check_storing)
                failpoint("worker.stored")
        except Stopped as stopped:
            ending = BY_STOP[stopped.stop]
            self._receipt = self._receipt or NO_PROCESS
        except LuthierError as error:
            ending = failure_of(self.job, error.to_typed())
        except (LeaseLost, DBAPIError):
            raise
        except OSError as error:
            _log.exception("this worker could not work on %s", self.job.id)
            self._is_fit = False
            ending = failure_of(self.job, fault_of_worker(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, the job must not hang
            _log.exception("the worker failed on %s", self.job.id)
            self._is_fit = False
            fault = InternalError(f"the worker failed: {type(error).__name__}: {error}")
            ending = failure_of(self.job, fault.to_typed())
        self._kill()
        return self._end(pump, lease, ending, rows)

    def _train(self, run: RunDirectory, pump: Pump, supervisor: Supervisor) -> Ending:
        """Prepare the run, train, and return how that ended."""
        lease = supervisor.lease
        self._say_phase(pump, lease, Phase.PREPARING)
        needs: Needs = lease.persist(lambda: read_needs(self.backends, self.job))
        REDACTOR.learn(needs.secrets.values())
        check = partial(supervisor.check_preparing, run)
        stored = lease.persist(self._stored_checkpoints)
        bring = partial(restore, self.backends.storage, run, stored, check=check, teller=pump)
        with prepare(
            self.backends, self.job, needs, device=self.device, check=check, restore=bring
        ):
            if is_trained(run):
                return Ending(State.SUCCEEDED, "trained", outcome=run.read_outcome())
            run.outcome.unlink(missing_ok=True)
            process = self._process = self.spare.take()
            process.start(
                run.path,
                trackers=self.job.spec["tracking"],
                secrets=needs.secrets,
                environment=needs.environment,
            )
            watch = MemoryWatch(
                process.pid,
                max_bytes=self.backends.settings.job_memory_bytes,
                max_processes=self.backends.settings.job_processes,
                on_excess=process.kill,
            )
            store = CheckpointStore(self.backends, self.job, run, teller=pump)
            with store, watch as memory, pump.log_capped():
                stop = supervisor.watch(process, pump)
                exit_code = process.kill()
                failpoint("worker.trained")
                if supervisor.asked:
                    self._receipt = supervisor.asked.receipt(exit_code)
                lease.check()
                lease.persist(pump.drain)
                if self.job.spec["tracking"] or needs.secrets:
                    pump.redact_log()
                if stop not in (Stop.CANCEL, Stop.KEEP):
                    seconds = supervisor.seconds_left
                    store.finish(seconds=seconds, is_wanted=supervisor.is_wanted)
        count = _NUM_STACK_LINES if stop is Stop.STALL else _NUM_LAST_LINES
        end = Exit(
            exit_code,
            tuple(pump.last_log_lines(count)),
            stop,
            has_stepped=pump.last_step is not None or run.has_checkpoints,
            stall_seconds=supervisor.stall_seconds,
            free_bytes=shutil.disk_usage(run.path).free,
            use=memory.use(peak_bytes=process.peak_bytes),
            tried=_tried(run, pump),
        )
        return ending_of(self.job, run.read_outcome(), end)

    def _stored_checkpoints(self) -> list[Checkpoint]:
        with self.backends.database.transaction() as tx:
            return checkpoints.of_any(tx, self.job.id)

    def _supervisor(self, lease: Lease) -> Supervisor:
        return Supervisor(
            job=self.job,
            settings=self.backends.settings,
            lease=lease,
            is_draining=self.is_draining,
            on_first_step=self.spare.refill,
        )

    def _end(self, pump: Pump, lease: Lease, ending: Ending, rows: list[dict[str, Any]]) -> Ending:
        """Move the job on, as often as the database needs, and return how it ended."""
        try:
            lease.persist(lambda: self._move(ending, pump, rows))
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
        is_ours = now.attempt == self.job.attempt
        if is_ours and now.state is ending.state:
            return ending
        # It may have been cancelled or paused after the process had ended.
        asked = as_asked(ending, Held(now.state, keep=now.keep)) if is_ours else ending
        if asked.outcome is None:
            forget_unnamed(self.backends, self.job.id, last_attempt=self.job.attempt)
            rows = []
        if asked == ending:
            raise LeaseLost(f"{self.job.id} is {now.state}, in attempt {now.attempt}")
        return self._end(pump, lease, asked, rows)

    def _move(self, ending: Ending, pump: Pump, rows: list[dict[str, Any]]) -> None:
        values: dict[str, Any] = {}
        again_in_seconds = 0.0
        assert ending.outcome is not None or ending.state is not State.SUCCEEDED
        if ending.outcome is not None:
            metrics = dict(ending.outcome.metrics)
            values["best"] = {"step": ending.outcome.best_step, "metrics": metrics}
        if ending.state is State.FAILED:
            assert ending.error is not None, "a failure without an error"
            values["error"] = REDACTOR.value(ending.error.to_dict())
        if ending.micro_batch_size is not None:
            values["micro_batch_size"] = ending.micro_batch_size
        if not ending.is_counted:
            values["max_attempts"] = self.job.max_attempts + 1
        elif ending.state is State.QUEUED:
            settings = self.backends.settings
            num_left = self.job.max_attempts - self.job.attempt  # of those that count
            num_tries = max(1, settings.max_attempts - num_left)
            again_in_seconds = pause_seconds(num_tries, first_seconds=settings.retry_seconds)
        with self.backends.database.transaction() as tx:
            if ending.error is not None:
                error = NewEvent(EventType.ERROR, REDACTOR.value(ending.error.to_dict()))
                events.append(tx, self.job.id, [error], attempt=self.job.attempt)
            attempts.end(
                tx,
                self.job.id,
                ending.state,
                attempt=self.job.attempt,
                reason=ending.reason,
                values=values,
                again_in_seconds=again_in_seconds,
                receipt=self._told_receipt(ending, pump.run),
            )
            if rows:
                artifacts.add(tx, self.job.id, rows)
            if rows and ending.state is State.SUCCEEDED:
                self._ask_for_push(tx)

    def _ask_for_push(self, tx: Transaction) -> None:
        asked = parse_spec(self.job.spec).push
        if asked is not None:
            pushes.ask(tx, self.job.id, asked, max_tries=self.backends.settings.max_attempts)

    def _told_receipt(self, ending: Ending, run: RunDirectory) -> dict[str, Any] | None:
        """Return what to tell of the process's end, where that was asked for."""
        receipt = self._receipt
        if ending.state in (State.CANCELLED, State.PAUSED):
            receipt = receipt or NO_PROCESS  # it had ended by itself before
        if receipt is None:
            return None
        is_resumable = ending.state in (State.PAUSED, State.QUEUED)
        saved = checkpoints_in(run.checkpoints) if is_resumable else []
        if saved:
            has_copy = is_stored(saved[-1], self._stored_checkpoints())
            receipt = replace(receipt, checkpoint=saved[-1].name, checkpoint_stored=has_copy)
        return receipt.to_dict()

    def _say_phase(self, pump: Pump, lease: Lease, phase: Phase) -> None:
        lease.persist(lambda: pump.say(EventType.PHASE, {"phase": phase, "fraction": 0.0}))


def _tried(run: RunDirectory, pump: Pump) -> dict[str, Any] | None:
    """Return what the run had resolved, if it had begun to train by that."""
    has_begun = pump.phase in _PHASES_OF_TRAINING and run.resolved.exists()
    return dict(read_json(run.resolved)) if has_begun else None
