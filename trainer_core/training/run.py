"""A run from its directory to its outcome: the standard workflow, top to bottom."""

import shutil
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from trainer_core.errors import Diverged, MaxRuntimeReached
from trainer_core.events import (
    JsonlReporter,
    Phase,
    Reporter,
    Reporters,
)
from trainer_core.redaction import REDACTOR
from trainer_core.run_directory import (
    Inputs,
    Outcome,
    Result,
    RunDirectory,
    read_json,
    step_of,
    write_json,
)
from trainer_core.spec import JobSpec, Relief, check_built, parse_spec, relief_of
from trainer_core.training.building import build
from trainer_core.training.data.caching import Cache
from trainer_core.training.deciding import Decided, decide
from trainer_core.training.finishing import Finish
from trainer_core.training.loop.checkpoints import steps_saved
from trainer_core.training.loop.run_loop import RunLoop
from trainer_core.training.loop.tracking import Tracking, tracked_run
from trainer_core.training.preparing import OWN_CACHE, Given, open_cache, prepare
from trainer_core.training.process import processes
from trainer_core.training.process.clock import PhaseClock
from trainer_core.training.process.directories import clear_leftovers
from trainer_core.training.process.failures import typed_error
from trainer_core.training.process.stopping import StopAsked, Stopping


def run(
    directory: RunDirectory, *, stopping: Stopping, watchers: Sequence[Reporter] = ()
) -> Outcome:
    """Carry out a run and return how it ended; `outcome.json` is written last of all."""
    if processes.is_first():
        _clear_earlier_end(directory)
    processes.wait_for_all()
    with _events_of(directory) as events:
        told = Reporters([*events, *watchers])
        tracking = Tracking(told)
        attempt = Attempt(directory, Reporters([told, tracking]), stopping, tracking)
        try:
            outcome = attempt.carry_out()
        except StopAsked:
            outcome = attempt.stopped()
        except Exception as error:  # noqa: BLE001 - the one place where all end: as a typed error
            outcome = attempt.failed(error)
        tracking.close(outcome.result)
        attempt.leave_cache()
    return _conclude(directory, outcome)


@contextmanager
def _events_of(directory: RunDirectory) -> Iterator[list[Reporter]]:
    """Give the reporter that keeps the events; of several processes the first one tells them."""
    if not processes.is_first():
        yield []
        return
    with JsonlReporter(directory.events) as events:
        yield [events]


def _conclude(directory: RunDirectory, outcome: Outcome) -> Outcome:
    """Write how a run ended; of several processes the first that fails says why."""
    if processes.is_first():
        shutil.rmtree(directory.path / OWN_CACHE, ignore_errors=True)
    if processes.num_processes() > 1 and (earlier := directory.read_outcome()):
        return earlier
    if processes.is_first() or outcome.result is Result.FAILED:
        write_json(directory.outcome, REDACTOR.value(outcome.to_dict()))
    return outcome


def _clear_earlier_end(directory: RunDirectory) -> None:
    """Forget how an earlier attempt ended, and the request that ended it."""
    if directory.outcome.exists():
        directory.outcome.unlink()
        directory.stop.unlink(missing_ok=True)
    directory.checkpoints.mkdir(exist_ok=True)
    clear_leftovers(directory.path)
    clear_leftovers(directory.checkpoints)


class Attempt:
    """One attempt at a run, and how far it came."""

    def __init__(
        self,
        directory: RunDirectory,
        reporter: Reporter,
        stopping: Stopping,
        tracking: Tracking,
    ) -> None:
        self._directory = directory
        self._reporter = reporter
        self._stopping = stopping
        self._tracking = tracking
        self._clock = PhaseClock(reporter)
        self._given: JobSpec | None = None
        self._spec: JobSpec | None = None  # as far as it is known
        self._inputs: Inputs | None = None
        self._cache: Cache | None = None
        self._trainer: RunLoop | None = None

    def carry_out(self) -> Outcome:
        """Read, decide, build, train, measure, save."""
        began = time.monotonic()
        with self._stopping.droppable():
            given = self._prepare()
        seconds = given.spec.resources.max_runtime_seconds
        if seconds is None or not processes.is_first():  # the others learn of it by agreement
            return self._train(given)
        left = max(0.01, began + seconds - time.monotonic())  # zero would be no limit
        with self._stopping.limited(left):
            return self._train(given)

    def _train(self, given: Given) -> Outcome:
        with self._stopping.droppable():
            decided = decide(
                given, directory=self._directory, clock=self._clock, reporter=self._reporter
            )
            self._spec = decided.spec
            built = build(
                given,
                decided,
                directory=self._directory,
                clock=self._clock,
                reporter=self._reporter,
                stopping=self._stopping,
            )
            trainer = self._trainer = built.trainer
            processes.wait_for_all()
        self._track(given, decided)
        self._clock.enter(Phase.TRAINING)
        trainer.fit(resume_from=decided.checkpoint.path if decided.checkpoint else None)
        optimizer: Any = trainer.optimizer
        optimizer.eval()  # one that averages puts its averages into the weights; others do nothing
        finish = Finish(
            directory=self._directory,
            reporter=self._reporter,
            clock=self._clock,
            decided=built.decided,
            trainer=trainer,
            recipe=built.recipe,
            best_step=trainer.load_best(),
            end_tracking=partial(self._tracking.close, Result.SUCCEEDED),
        )
        try:
            metrics = finish.measure()
        except StopAsked:
            trainer.save_if_asked()
            raise
        finish.save(metrics)
        step, best_step = trainer.state.global_step, finish.best_step
        return Outcome(Result.SUCCEEDED, step=step, best_step=best_step, metrics=metrics)

    def stopped(self) -> Outcome:
        """Return the outcome of an attempt that was asked to stop, or had no more time."""
        if not self._stopping.is_over:
            return self._unfinished(Outcome(Result.STOPPED))
        assert self._spec is not None, "the limit is the spec's"
        error = MaxRuntimeReached(
            f"the attempt reached its limit of {self._spec.resources.max_runtime_seconds} seconds.",
            hint="Raise resources.max_runtime_seconds, or train for fewer steps.",
            param="resources.max_runtime_seconds",
        )
        return self._unfinished(Outcome(Result.FAILED, error=error.to_typed()))

    def failed(self, error: Exception) -> Outcome:
        """Return the outcome of an attempt that an exception ended; the log gets its traceback."""
        with self._directory.log.open("a", encoding="utf-8") as log:
            traceback.print_exception(error, file=log)
        typed = typed_error(
            error,
            relief=self._relief(),
            folder=self._directory.path,
            inputs=self._inputs,
        )
        outcome = self._unfinished(Outcome(Result.FAILED, error=typed))
        # What is saved was looked at, so that it is good.
        named = replace(typed, detail={**typed.detail, "checkpoint": outcome.checkpoint})
        return replace(outcome, error=named if typed.code == Diverged.code else typed)

    def _relief(self) -> Relief | None:
        """Return what would need less memory, once there is something that trains."""
        if self._trainer is None or self._given is None:
            return None
        return relief_of(self._given, read_json(self._directory.resolved))

    def _prepare(self) -> Given:
        self._clock.enter(Phase.PREPARING)
        spec = self._spec = self._given = parse_spec(self._directory.read_spec())
        check_built(spec)
        inputs = self._inputs = self._directory.read_inputs()
        cache = self._cache = open_cache(inputs, self._directory, reporter=self._reporter)
        return prepare(spec, inputs=inputs, cache=cache, reporter=self._reporter)

    def leave_cache(self) -> None:
        """Bring the cache back to its size."""
        if self._cache is not None and processes.is_first():
            self._cache.prune()

    def _track(self, given: Given, decided: Decided) -> None:
        if not processes.is_first():
            return
        done = step_of(decided.checkpoint.path) if decided.checkpoint else 0
        run = tracked_run(self._directory, spec=decided.spec, inputs=given.inputs, first_step=done)
        self._tracking.begin(decided.spec.tracking, run)

    def _unfinished(self, outcome: Outcome) -> Outcome:
        """Return an outcome with how far the attempt came."""
        saved = steps_saved(self._directory.checkpoints)
        state = self._trainer.state if self._trainer else None
        return Outcome(
            outcome.result,
            step=max([state.global_step if state else 0, *saved]),
            best_step=state.best_global_step if state else None,
            error=outcome.error,
            checkpoint=f"checkpoints/checkpoint-{saved[-1]}" if saved else None,
        )
