"""How an attempt leaves its job, told from what its training process left behind."""

import errno
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from jobs.records import Job
from jobs.states import State
from jobs.store.attempts import Held
from trainer_core.errors import (
    DiskFull,
    InternalError,
    MaxRuntimeReached,
    OutOfMemory,
    ProcessDied,
    ServiceUnavailable,
    Stalled,
    TypedError,
)
from trainer_core.run_directory import Outcome, Result
from trainer_core.spec import half_micro_batch, parse_spec
from worker.deaths import died, is_out_of_memory, manner, out_of_memory
from worker.memory import MemoryUse

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
    micro_batch_size: int | None = None  # of the next attempt, where this one was too large


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
    use: MemoryUse
    tried: Mapping[str, Any] | None  # what `resolved.json` says, once it had begun to train


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
        return _failed(job, outcome.error, end)
    if end.stop in (Stop.MAX_RUNTIME, Stop.STALL):
        fault = _out_of_time(job) if end.stop is Stop.MAX_RUNTIME else _stall(job, end)
        return failure_of(job, fault.to_typed())
    if end.stop is not None or outcome is not None:
        return BY_STOP[end.stop] if end.stop else _SIGNALLED
    is_full = end.free_bytes < _NO_ROOM_BYTES
    death = died(job, code=end.code, last_lines=end.last_lines, use=end.use)
    return _failed(job, _no_room(end).to_typed() if is_full else death, end)


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
        reason = f"cancelled by request; no model is kept: the process {manner(end.code)}"
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


def _failed(job: Job, error: TypedError, end: Exit) -> Ending:
    """Return the ending by an error of the process or by its death, of which memory may be why."""
    is_vague = error.code in (ProcessDied.code, InternalError.code)  # a child's death, to the run
    if is_vague and is_out_of_memory(code=end.code, last_lines=end.last_lines, use=end.use):
        error = out_of_memory(job, use=end.use, tried=end.tried)
    if error.code == OutOfMemory.code and (size := _smaller_micro_batch(job, end)):
        reason = f"{error.code}: goes on with a micro-batch of {size}"
        return Ending(State.QUEUED, reason, error, is_counted=False, micro_batch_size=size)
    return failure_of(job, error)


def _smaller_micro_batch(job: Job, end: Exit) -> int | None:
    """Return with what micro-batch to try once more, if the job wants that and has not yet."""
    if job.spec["resources"]["on_oom"] != "shrink" or job.micro_batch_size is not None:
        return None
    return half_micro_batch(parse_spec(end.tried["spec"])) if end.tried else None


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
