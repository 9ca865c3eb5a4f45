"""How an attempt leaves its job, told from what its training process left behind."""

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from jobs.records import Job
from jobs.states import State
from trainer_core.errors import (
    DiskFull,
    InternalError,
    MaxRuntimeReached,
    OutOfMemory,
    ProcessDied,
    ServiceUnavailable,
    TypedError,
)
from trainer_core.run_directory import Outcome, Result
from trainer_core.spec import half_micro_batch, parse_spec
from worker.deaths import died, is_out_of_memory, out_of_memory
from worker.memory import MemoryUse


class Stop(StrEnum):
    """Why a worker ends what would have gone on."""

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
    micro_batch_size: int | None = None  # of the next attempt, where this one was too large


CANCELLED = Ending(State.CANCELLED, "cancelled by request")
DRAINED = Ending(State.QUEUED, "the worker stopped", is_counted=False)


@dataclass(frozen=True, slots=True)
class Exit:
    """How a training process ended."""

    code: int  # minus the signal if one killed it
    last_lines: tuple[str, ...]  # of what it printed
    stop: Stop | None  # why it was made to end, if it was
    use: MemoryUse
    tried: Mapping[str, Any] | None  # what `resolved.json` says, once it had begun to train


def ending_of(job: Job, outcome: Outcome | None, end: Exit) -> Ending:
    """Return how an attempt leaves its job once its training process has ended.

    Args:
        job: as it was claimed.
        outcome: what the process said of its run, if it came to that.
        end: how the process ended.
    """
    if end.stop is Stop.CANCEL:
        return CANCELLED
    if outcome is not None and outcome.result is Result.SUCCEEDED:
        return Ending(State.SUCCEEDED, "trained", outcome=outcome)
    if outcome is not None and outcome.result is Result.FAILED:
        assert outcome.error is not None, "an outcome says failed without an error"
        return _failed(job, outcome.error, end)
    if end.stop is Stop.MAX_RUNTIME:
        return failure_of(job, _out_of_time(job).to_typed())
    if end.stop is Stop.DRAIN:
        return DRAINED
    return _failed(job, died(job, code=end.code, last_lines=end.last_lines, use=end.use), end)


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
