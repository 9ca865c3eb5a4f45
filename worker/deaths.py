"""What ended a training process that did not say so itself."""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jobs.records import Job
from trainer_core.errors import OutOfMemory, ProcessDied, TooManyProcesses, TypedError
from trainer_core.memory import shown
from trainer_core.spec import parse_spec, relief_of
from worker.memory import MemoryUse

_HINTS: dict[int, str] = {
    signal.SIGKILL: "Look for who sends it: nothing says that memory ran out.",
    signal.SIGBUS: "Look at the room in /dev/shm, which data loader workers use, and on the disk.",
    signal.SIGSEGV: "See the last lines of the log; a library crashed, or the machine is at fault.",
    signal.SIGABRT: "See the last lines of the log: a library gave up and says why.",
    signal.SIGILL: "Install libraries that are built for this worker's processor.",
}
_NO_MEMORY_PHRASE = "std::bad_alloc"  # the last word of a C++ library that was refused memory


def is_out_of_memory(*, code: int, last_lines: Sequence[str], use: MemoryUse) -> bool:
    """Return whether want of memory ended the process, by what was counted and said.

    Args:
        code: its exit code, minus the signal if one killed it.
        last_lines: of what it printed.
        use: of memory.
    """
    if use.is_over_limit:
        return True
    if code == -signal.SIGABRT:
        return any(_NO_MEMORY_PHRASE in line for line in last_lines)
    # With an exit code of its own it outlived the one of its children that was killed.
    return use.num_oom_kills > 0 and (code == -signal.SIGKILL or code > 0)


def out_of_memory(job: Job, *, use: MemoryUse, tried: Mapping[str, Any] | None) -> TypedError:
    """Return the error of a job for which the host had not enough memory.

    Args:
        job: as it was claimed.
        use: of memory.
        tried: what `resolved.json` says; None if the job was not training yet.
    """
    relief = relief_of(parse_spec(job.spec), tried) if tried else None
    spec = relief.spec if relief else None
    peak, limit = shown(use.peak_bytes), shown(use.limit_bytes)
    if use.is_over_limit:
        message = f"the job held {peak} of memory and may hold {limit}."
    else:
        message = f"the host's memory ran out: the run had {peak} of {limit} when it was killed."
    error = OutOfMemory(
        f"{message[:-1]}, in attempt {job.attempt} of {job.max_attempts}.",
        hint=relief.hint if relief else "Choose a smaller model, or a worker with more memory.",
        detail={
            "device": "host",
            "peak_bytes": use.peak_bytes,
            "limit_bytes": use.limit_bytes,
            "available_bytes": use.available_bytes,
            "suggested_spec": spec.model_dump(mode="json") if spec else None,
        },
    ).to_typed()
    # Most of it was others': they may have gone by the next attempt.
    return replace(error, retryable=use.bound_bytes < use.limit_bytes / 2)


def died(job: Job, *, code: int, last_lines: Sequence[str], use: MemoryUse) -> TypedError:
    """Return the error of a job whose process ended for any other reason."""
    if use.is_crowded:
        return TooManyProcesses(
            f"the job had {use.num_processes} processes at once, more than it may have.",
            hint="See the end of the log; LUTHIER_JOB_PROCESSES is the limit.",
            detail={"num_processes": use.num_processes, "last_lines": list(last_lines)},
        ).to_typed()
    return ProcessDied(
        f"the training process {manner(code)}, in attempt {job.attempt} of {job.max_attempts}.",
        hint=_HINTS.get(-code, "See the end of the log."),
        detail={
            "exit_code": code,
            "last_lines": list(last_lines),
            "peak_bytes": use.peak_bytes,
            "limit_bytes": use.limit_bytes,
            "available_bytes": use.available_bytes,
        },
    ).to_typed()


def manner(code: int) -> str:
    """Return in words how a process ended, by its exit code."""
    if code < 0:
        return f"was killed by {_name(-code)}"
    return f"ended with exit code {code} without saying how it went"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
