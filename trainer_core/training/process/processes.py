"""Several processes that carry out one run together, each with a copy of all that is said here.

The first one writes: events, tokens, checkpoints, the model, the outcome. `launching.py` or
`torchrun` starts them and says in the environment which is which. With one process nothing here
does anything.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import distributed

from trainer_core.training.process.directories import partial_of, whole_or_absent

_TIMEOUT = timedelta(hours=6)  # while the first one tokenizes, the others wait in a collective

_T = TypeVar("_T")


def num_processes() -> int:
    """Return how many processes carry out this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Return whether this process is the one that writes."""
    return int(os.environ.get("RANK", "0")) == 0


def join() -> None:
    """Meet the other processes, if there are any."""
    if num_processes() > 1 and not distributed.is_initialized():
        # What is agreed on lies on the CPU, so that nothing waits for the GPU.
        backend = "cuda:nccl,cpu:gloo" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=_TIMEOUT)


def leave() -> None:
    """Part from the others."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def wait_for_all() -> None:
    """Return once every process is here."""
    is_any(here=False)


def is_any(*, here: bool) -> bool:
    """Return whether it is so in any process; all of them have to ask."""
    if num_processes() == 1:
        return here
    flag = torch.tensor(int(here))
    distributed.all_reduce(flag, distributed.ReduceOp.MAX)
    return bool(flag)


def of_first(value: _T) -> _T:
    """Return what the first process has here; all of them have to ask."""
    if num_processes() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def made_by_first(make: Callable[[], _T]) -> _T:
    """Return what the first process makes, and no other one; all of them have to ask."""
    return cast("_T", of_first(make() if is_first() else None))


@contextmanager
def whole_or_absent_for_all(path: Path) -> Iterator[Path]:
    """Yield one empty directory to all processes; it is whole, or absent, as for one."""
    if num_processes() == 1:
        with whole_or_absent(path) as partial:
            yield partial
        return
    if is_first():
        with whole_or_absent(path) as partial:
            wait_for_all()
            yield partial
            wait_for_all()
    else:
        wait_for_all()
        yield partial_of(path)
        wait_for_all()
    wait_for_all()
