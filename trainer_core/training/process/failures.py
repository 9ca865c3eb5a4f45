"""From any exception of a run to the error that its user reads."""

import errno
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from trainer_core import memory
from trainer_core.errors import (
    DiskFull,
    InternalError,
    LuthierError,
    OutOfMemory,
    ProcessDied,
    ServiceUnavailable,
    TypedError,
)
from trainer_core.run_directory import Inputs
from trainer_core.spec import Relief

_SHARED_PHRASE = "out of shared memory"  # of a data loader's worker that was killed by SIGBUS
_MEMORY_PHRASES = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "status_alloc_failed",  # of CUDA's libraries
    _SHARED_PHRASE,
)
_GPU_PHRASES = ("cuda", "cublas", "hip out")
_GPU_NUMBER = re.compile(r"GPU (\d+) has a total capacity")
_DISK_PHRASES = (
    "no space left on device",
    "disk quota exceeded",
    "pytorchstreamwriter failed writing",  # torch.save says no more than this,
    "iostream error",  # or only this, where closing the file is what fails
)
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT)
_MAX_MESSAGE_CHARACTERS = 500


def typed_error(
    error: BaseException,
    *,
    relief: Relief | None,
    folder: Path,
    inputs: Inputs | None = None,
) -> TypedError:
    """Return what to tell the user of an exception; none is passed on bare.

    Args:
        error: what ended the run.
        relief: what would need less memory; None before the run trained.
        folder: the run directory.
        inputs: what the run was given to work with, once that is known.
    """
    for link in _chain(error):
        if isinstance(link, LuthierError):
            return link.to_typed()
        if _is_memory(link):
            return _out_of_memory(link, relief=relief, inputs=inputs).to_typed()
        if _is_disk(link):
            return DiskFull(
                f"the disk that holds {folder.name} is full: {_shortened(link)}",
                hint="Free some space and submit the job again; checkpoints.keep says how many "
                "checkpoints stay.",
            ).to_typed()
        if isinstance(link, OSError) and link.errno == errno.EIO:
            # The kernel may say that all is well if asked again, so what was written is not kept.
            return ServiceUnavailable(
                f"the disk that holds {folder.name} failed: {_shortened(link)}",
                hint="Look at the worker's disk; an earlier checkpoint is gone on from.",
            ).to_typed()
        if _is_lost(link):
            return ProcessDied(f"another process of this run ended: {_shortened(link)}").to_typed()
    return InternalError(
        f"{type(error).__name__}: {_shortened(error)}",
        hint="The log has the whole traceback.",
        detail={"exception": type(error).__name__},
    ).to_typed()


def _out_of_memory(
    error: BaseException, *, relief: Relief | None, inputs: Inputs | None
) -> OutOfMemory:
    where = _device_short_of_memory(error, device=inputs.device if inputs else None)
    peak, limit = _host_bytes(inputs) if where == "host" else _gpu_bytes(error)
    spec = relief.spec if relief else None
    detail = {
        "device": where,
        "peak_bytes": peak,
        "limit_bytes": limit,
        "suggested_spec": spec.model_dump(mode="json") if spec else None,
    }
    hint = relief.hint if relief else "Choose a smaller model, or a worker with more memory."
    if _SHARED_PHRASE in str(error).lower():
        hint = "Set training.data_loader_workers to 0, or give /dev/shm of the worker more room."
    had = f" The run had {memory.shown(peak)} of {memory.shown(limit)}." if peak and limit else ""
    whose = "the host's memory" if where == "host" else f"the memory of {where}"
    message = f"{whose} ran out: {_shortened(error).rstrip('.')}.{had}"
    return OutOfMemory(message, hint=hint, detail=detail)


def _device_short_of_memory(error: BaseException, *, device: str | None) -> str:
    """Return "host", "mps" or the GPU by the worker's number of it."""
    text = str(error).lower()
    if "mps backend" in text:
        return "mps"
    if type(error).__name__ != "OutOfMemoryError" and not any(p in text for p in _GPU_PHRASES):
        return "host"
    # This process may see one GPU alone, and call it the first.
    return device if device and ":" in device else f"cuda:{_gpu_number(error)}"


def _gpu_number(error: BaseException) -> int:
    if told := _GPU_NUMBER.search(str(error)):
        return int(told[1])
    return torch.cuda.current_device() if torch.cuda.is_available() else 0


def _host_bytes(inputs: Inputs | None) -> tuple[int, int]:
    """Return the most that this process had in memory at once, and what it might have."""
    limit = memory.limit_bytes()
    if inputs and inputs.memory_bytes:
        limit = min(limit, inputs.memory_bytes)
    return memory.own_peak_bytes(), limit


def _gpu_bytes(error: BaseException) -> tuple[int | None, int | None]:
    """Return the most that this process had of its GPU at once, and what the GPU has."""
    if not torch.cuda.is_available():
        return None, None
    number = _gpu_number(error)
    total = torch.cuda.get_device_properties(number).total_memory
    return torch.cuda.max_memory_allocated(number), total


def is_capacity(error: BaseException) -> bool:
    """Return whether memory or disk did not suffice."""
    return any(_is_memory(link) or _is_disk(link) for link in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and what it was raised from."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(phrase in text for phrase in _MEMORY_PHRASES)


def _is_lost(error: BaseException) -> bool:
    """Return whether the processes of a run can't reach one of them; its own outcome says more."""
    text = str(error).lower()
    is_theirs = "gloo" in text or "nccl" in text or "process group" in text
    is_loader = "dataloader worker" in text and ("killed by" in text or "exited" in text)
    is_cut_off = is_theirs and "connection" in text
    return isinstance(error, RuntimeError) and (is_cut_off or is_loader)


def _is_disk(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _DISK_ERRORS
    return any(phrase in str(error).lower() for phrase in _DISK_PHRASES)


def _shortened(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:_MAX_MESSAGE_CHARACTERS] if lines else type(error).__name__
