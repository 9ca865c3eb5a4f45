import errno
from pathlib import Path
from typing import Any

import pytest

from trainer_core.errors import EmptyFile, TypedError, Whose
from trainer_core.spec import JobSpec, parse_spec
from trainer_core.training.failures import is_capacity, typed_error


def _spec(**training: Any) -> JobSpec:
    data = {"train": "dataset:ds_0123456789ab"}
    values = {"task": "text-classification", "model": "model:tiny", "data": data}
    return parse_spec({**values, "max_length": 128, "training": training})


def _typed(error: BaseException, *, spec: JobSpec | None = None) -> TypedError:
    return typed_error(error, spec=spec, folder=Path("run"))


def test_our_own_errors_stay_what_they_are() -> None:
    assert _typed(EmptyFile("a.csv is empty")).code == "empty_file"


def test_our_own_error_is_found_under_a_library_error() -> None:
    wrapped = RuntimeError("while collating")
    wrapped.__cause__ = EmptyFile("a.csv is empty")
    assert _typed(wrapped).code == "empty_file"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_no_memory_is_told_with_a_smaller_setting(error: BaseException) -> None:
    typed = _typed(error, spec=_spec(batch_size=24, micro_batch_size=24))
    assert (typed.code, typed.whose) == ("out_of_memory", Whose.CAPACITY)
    assert "micro_batch_size to 12" in typed.hint


def test_the_advice_goes_on_where_the_micro_batch_is_one_row() -> None:
    error = MemoryError()
    spec = _spec(batch_size=8, micro_batch_size=1)
    assert "gradient_checkpointing" in _typed(error, spec=spec).hint
    spec = _spec(batch_size=8, micro_batch_size=1, gradient_checkpointing=True)
    assert "max_length to 64" in _typed(error, spec=spec).hint


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file data/0: file write"),
        ValueError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_told_and_may_be_tried_again(error: BaseException) -> None:
    typed = _typed(error)
    assert typed.code == "disk_full"
    assert typed.retryable


def test_a_full_memory_or_disk_is_found_under_a_library_error() -> None:
    wrapped = ValueError("while reading the weights")
    assert not is_capacity(wrapped)
    wrapped.__cause__ = MemoryError()
    assert is_capacity(wrapped)
    assert is_capacity(OSError(errno.ENOSPC, "No space left on device"))


def test_anything_else_is_ours_with_its_type_and_first_line() -> None:
    typed = _typed(KeyError("input_ids"))
    assert typed.code == "internal_error"
    assert typed.message == "KeyError: 'input_ids'"
    assert not typed.retryable
