"""From any exception of a run to the error that its user reads."""

import errno
from collections.abc import Iterator
from pathlib import Path

from trainer_core.errors import (
    DiskFull,
    InternalError,
    LuthierError,
    OutOfMemory,
    ProcessDied,
    ServiceUnavailable,
    TypedError,
)
from trainer_core.spec import JobSpec

_MEMORY_PHRASES = ("out of memory", "can't allocate memory", "cannot allocate memory")
_DISK_PHRASES = (
    "no space left on device",
    "disk quota exceeded",
    "pytorchstreamwriter failed writing",  # torch.save says no more than this
)
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT)
_MAX_MESSAGE_CHARACTERS = 500


def typed_error(error: BaseException, *, spec: JobSpec | None, folder: Path) -> TypedError:
    """Return what to tell the user of an exception; none is passed on bare.

    Args:
        error: what ended the run.
        spec: the spec so far, resolved if the run came so far; advice is taken from it.
        folder: the run directory.
    """
    return _luthier_error(error, spec=spec, folder=folder).to_typed()


def _luthier_error(error: BaseException, *, spec: JobSpec | None, folder: Path) -> LuthierError:
    for link in _chain(error):
        if isinstance(link, LuthierError):
            return link
        if _is_memory(link):
            return OutOfMemory(_shortened(link), hint=_smaller_setting(spec))
        if _is_disk(link):
            return DiskFull(
                f"the disk that holds {folder.name} is full: {_shortened(link)}",
                hint="Free some space and submit the job again; checkpoints.keep says how many "
                "checkpoints stay.",
            )
        if isinstance(link, OSError) and link.errno == errno.EIO:
            # The kernel may say that all is well if asked again, so what was written is not kept.
            return ServiceUnavailable(
                f"the disk that holds {folder.name} failed: {_shortened(link)}",
                hint="Look at the worker's disk; an earlier checkpoint is gone on from.",
            )
        if _is_lost(link):
            return ProcessDied(f"another process of this run ended: {_shortened(link)}")
    return InternalError(
        f"{type(error).__name__}: {_shortened(error)}",
        hint="The log has the whole traceback.",
        detail={"exception": type(error).__name__},
    )


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
    return isinstance(error, RuntimeError) and is_theirs and "connection" in text


def _is_disk(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _DISK_ERRORS
    return any(phrase in str(error).lower() for phrase in _DISK_PHRASES)


def _shortened(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:_MAX_MESSAGE_CHARACTERS] if lines else type(error).__name__


def _smaller_setting(spec: JobSpec | None) -> str:
    """Return the mildest change that makes a run smaller; the first ones keep the result."""
    if spec is None:
        return "Choose a smaller model, or a worker with more memory."
    training = spec.training
    micro = (
        training.batch_size if training.micro_batch_size == "auto" else training.micro_batch_size
    )
    if micro > 1:
        half = next(size for size in range(micro // 2, 0, -1) if training.batch_size % size == 0)
        return f"Set training.micro_batch_size to {half}; the result stays the same."
    if training.gradient_checkpointing is not True:
        return "Set training.gradient_checkpointing to true; the result stays the same."
    if spec.max_length != "auto" and spec.max_length > 8:
        return f"Set max_length to {max(8, spec.max_length // 2)}."
    return "Train an adapter, choose a smaller model, or a worker with more memory."
