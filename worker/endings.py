"""How an attempt leaves its job, told from what its training process left behind."""

import errno
import signal
from dataclasses import dataclass, replace
from enum import StrEnum

from jobs.records import Job
from jobs.states import State
from jobs.store.attempts import Held
from trainer_core.errors import (
    DiskFull,
    LuthierError,
    MaxRuntimeReached,
    ProcessDied,
    ServiceUnavailable,
    Stalled,
    TypedError,
)
from trainer_core.run_directory import Outcome, Result

_NO_ROOM_BYTES = 64 << 10  # an outcome would have needed some of it


class Stop(StrEnum):
    """Why a worker ends what would have gone on."""

    CANCEL = "cancel"
    KEEP = "keep"  # cancelled as well, with a model made of the steps taken
    PAUSE = "pause"
    DRAIN = "drain"
    MAX_RUNTIME = "max_runtime"
    STALL = "stall"


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt leaves its job."""

    state: State
    reason: str
    error: TypedError | None = None
    outcome: Outcome | None = None  # of a run whose model is handed out
    is_counted: bool = True  # against the cap on attempts


_KEPT = "cancelled by request; its model is kept"

CANCELLED = Ending(State.CANCELLED, "cancelled by request")
PAUSED = Ending(State.PAUSED, "paused by request", is_counted=False)
DRAINED = Ending(State.QUEUED, "the worker stopped", is_counted=False)
_SIGNALLED = replace(DRAINED, reason="a signal that was not the worker's")
BY_STOP = {
    Stop.CANCEL: CANCELLED,
    Stop.KEEP: replace(CANCELLED, reason="cancelled by request; no step was taken to keep"),
    Stop.PAUSE: PAUSED,
    Stop.DRAIN: DRAINED,
}
"""How an attempt leaves its job that was stopped with nothing to show for it but checkpoints."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a training process ended."""

    code: int  # minus the signal if one killed it
    last_lines: tuple[str, ...]  # of what it printed
    stop: Stop | None  # why it was to end, if it was
    has_stepped: bool  # in this attempt or before
    stall_seconds: float  # the limit
    free_bytes: int  # on its disk, once it had ended


def ending_of(job: Job, outcome: Outcome | None, end: Exit) -> Ending:
    """Return how an attempt leaves its job once its training process has ended.

    Args:
        job: as it was claimed.
        outcome: what the process said of its run, if it came to that.
        end: how the process ended.
    """
    if end.stop in (Stop.CANCEL, Stop.KEEP):
        return CANCELLED if end.stop is Stop.CANCEL else _kept(outcome, end)
    if outcome is not None and outcome.result is Result.SUCCEEDED:
        return Ending(State.SUCCEEDED, "trained", outcome=outcome)
    if outcome is not None and outcome.result is Result.FAILED:
        assert outcome.error is not None, "an outcome says failed without an error"
        return failure_of(job, outcome.error)
    if end.stop in (Stop.MAX_RUNTIME, Stop.STALL):
        return failure_of(job, _fault(job, end).to_typed())
    if end.stop is not None or outcome is not None:
        return BY_STOP[end.stop] if end.stop else _SIGNALLED
    return failure_of(job, _fault(job, end).to_typed())


def _fault(job: Job, end: Exit) -> LuthierError:
    """Return why a process ended that did not say so itself."""
    if end.stop is Stop.MAX_RUNTIME:
        return _out_of_time(job)
    if end.stop is Stop.STALL:
        return _stall(job, end)
    return _no_room(end) if end.free_bytes < _NO_ROOM_BYTES else _death(job, end)


def as_asked(ending: Ending, held: Held) -> Ending:
    """Return how an attempt leaves its job now that its owner has asked for something.

    It was asked too late for the attempt to hear of it, which had ended by then.
    """
    match held.state:
        case State.CANCELLING if held.keep and ending.outcome is not None:
            return replace(ending, state=State.CANCELLED, reason=_KEPT, is_counted=True)
        case State.CANCELLING:
            return CANCELLED
        case State.PAUSING if ending.state is State.QUEUED:
            return replace(ending, state=State.PAUSED)
        case _:
            return ending


def _kept(outcome: Outcome | None, end: Exit) -> Ending:
    """Return the ending of an attempt that was to make a model of the steps it had taken."""
    if outcome is None and not end.has_stepped:
        return BY_STOP[Stop.KEEP]
    if outcome is None:
        reason = f"cancelled by request; no model is kept: the process {_manner(end.code)}"
        return replace(CANCELLED, reason=reason)
    match outcome.result:
        case Result.SUCCEEDED:
            return replace(CANCELLED, reason=_KEPT, outcome=outcome)
        case Result.STOPPED:
            return BY_STOP[Stop.KEEP]
        case Result.FAILED:
            assert outcome.error is not None, "an outcome says failed without an error"
            reason = f"cancelled by request; no model is kept: {outcome.error.code}"
            return replace(CANCELLED, reason=reason, error=outcome.error)


def failure_of(job: Job, error: TypedError) -> Ending:
    """Return the ending by an error: another attempt if that may help and one is left."""
    if error.retryable and job.attempt < job.max_attempts:
        return Ending(State.QUEUED, error.code, error=error)
    return Ending(State.FAILED, error.code, error=error)


def fault_of_worker(error: OSError) -> TypedError:
    """Return what the system's refusal means for the job."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"the worker's disk is full: {error}", hint="Free space there.").to_typed()
    return ServiceUnavailable(
        f"the worker could not work: {error}", hint="See the worker's log."
    ).to_typed()


def _out_of_time(job: Job) -> MaxRuntimeReached:
    limit = job.spec["resources"]["max_runtime_seconds"]
    return MaxRuntimeReached(
        f"the attempt reached its limit of {limit} seconds.",
        hint="Raise resources.max_runtime_seconds, or train for fewer steps.",
        param="resources.max_runtime_seconds",
    )


def _no_room(end: Exit) -> DiskFull:
    """Return why a process could not even say how it went."""
    return DiskFull(
        f"the worker's disk is full: {end.free_bytes} bytes are free.",
        hint="Free space there.",
        detail={"exit_code": end.code, "last_lines": list(end.last_lines)},
    )


def _stall(job: Job, end: Exit) -> Stalled:
    return Stalled(
        f"the training process got no further for {end.stall_seconds:g} seconds, in attempt "
        f"{job.attempt} of {job.max_attempts}.",
        hint="The log has the stacks of all its threads. If a step may take so long, raise "
        "resources.max_stall_seconds.",
        param="resources.max_stall_seconds",
        detail={"stall_seconds": end.stall_seconds, "last_lines": list(end.last_lines)},
    )


def _death(job: Job, end: Exit) -> ProcessDied:
    which = f"in attempt {job.attempt} of {job.max_attempts}"
    return ProcessDied(
        f"the training process {_manner(end.code)}, {which}.",
        hint="If the machine ran out of memory, lower training.micro_batch_size.",
        detail={"exit_code": end.code, "last_lines": list(end.last_lines)},
    )


def _manner(exit_code: int) -> str:
    if exit_code < 0:
        return f"was killed by {signal.Signals(-exit_code).name}"
    return f"ended with exit code {exit_code} without saying how it went"
