import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trainer_core.errors import EmptyFile, TypedError, Whose
from trainer_core.rows.files import InputFile
from trainer_core.run_directory import Inputs
from trainer_core.spec import Relief, parse_spec
from trainer_core.training.process.failures import is_capacity, typed_error

RELIEF = Relief(
    "Set training.micro_batch_size to 12.",
    parse_spec(
        {
            "task": "text-classification",
            "model": "model:tiny",
            "data": {"train": "dataset:ds_0123456789ab"},
            "training": {"batch_size": 24, "micro_batch_size": 12},
        }
    ),
)
ROWS = InputFile(path=Path("train.csv"), name="train.csv")


def _typed(
    error: BaseException, *, relief: Relief | None = None, inputs: Inputs | None = None
) -> TypedError:
    return typed_error(error, relief=relief, folder=Path("run"), inputs=inputs)


def _inputs(**values: Any) -> Inputs:
    return Inputs(model=Path("model"), train=ROWS, **values)


def test_our_own_errors_stay_what_they_are() -> None:
    assert _typed(EmptyFile("a.csv is empty")).code == "empty_file"


def test_our_own_error_is_found_under_a_library_error() -> None:
    wrapped = RuntimeError("while collating")
    wrapped.__cause__ = EmptyFile("a.csv is empty")
    assert _typed(wrapped).code == "empty_file"


@pytest.mark.parametrize(
    ("error", "device"),
    [
        (MemoryError(), "host"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8 bytes."), "host"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 18.00 GB)"), "mps"),
        (RuntimeError("CUDA error: out of memory"), "cuda:0"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), "cuda:0"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "cuda:0"),
        (
            torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 3 has a total capacity of "
                "79.18 GiB of which 1.02 GiB is free."
            ),
            "cuda:3",
        ),
    ],
)
def test_no_memory_is_told_with_the_device_and_a_spec_to_post(
    error: BaseException, device: str
) -> None:
    typed = _typed(error, relief=RELIEF)
    assert (typed.code, typed.whose) == ("out_of_memory", Whose.CAPACITY)
    assert typed.hint == RELIEF.hint
    assert typed.detail["device"] == device
    assert RELIEF.spec is not None
    assert typed.detail["suggested_spec"] == RELIEF.spec.model_dump(mode="json")


def test_the_host_s_peak_and_limit_are_told() -> None:
    grown = bytearray(50_000_000)
    typed = _typed(MemoryError(), inputs=_inputs(memory_bytes=10**9))
    assert typed.detail["peak_bytes"] > len(grown)
    assert typed.detail["limit_bytes"] == 10**9
    assert "GiB" in typed.message or "MiB" in typed.message
    without = _typed(MemoryError()).detail["limit_bytes"]
    assert 10**9 < without <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_a_gpu_s_peak_and_size_are_told_under_the_worker_s_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The process sees one GPU alone, and calls it the first."""
    found = SimpleNamespace(total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: found)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 79 << 30)
    error = torch.OutOfMemoryError("CUDA out of memory. GPU 0 has a total capacity of 80 GiB.")
    typed = _typed(error, inputs=_inputs(device="cuda:2"))
    assert typed.detail["device"] == "cuda:2"
    assert (typed.detail["peak_bytes"], typed.detail["limit_bytes"]) == (79 << 30, 80 << 30)
    assert "The run had 79.0 GiB of 80.0 GiB." in typed.message


def test_before_training_the_micro_batch_is_no_advice() -> None:
    typed = _typed(MemoryError())
    assert "smaller model" in typed.hint
    assert typed.detail["suggested_spec"] is None


def test_shared_memory_and_killed_loaders_are_told_apart() -> None:
    loader = "DataLoader worker (pid 12) is killed by signal: "
    shared = "Bus error. It is possible that dataloader's workers are out of shared memory."
    typed = _typed(RuntimeError(loader + shared), relief=RELIEF)
    assert typed.code == "out_of_memory"
    assert "/dev/shm" in typed.hint
    assert _typed(RuntimeError(f"{loader}Killed.")).code == "process_died"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file data/0: file write"),
        RuntimeError("basic_ios::clear: iostream error"),
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
