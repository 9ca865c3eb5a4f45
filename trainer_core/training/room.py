"""Whether the disk has room for what a run will save, told before anything is trained.

The estimate is a low one: a run that is refused would not have fitted.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from trainer_core.errors import DiskFull
from trainer_core.spec import JobSpec
from trainer_core.spec.estimating import WEIGHT_BYTES, num_moments
from trainer_core.spec.resolving import num_optimizer_steps
from trainer_core.training.models.base_model import BaseModel


@dataclass(frozen=True, slots=True)
class Need:
    """What a run will have on the disk at once, bytes."""

    checkpoint_bytes: int
    num_checkpoints: int
    model_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.checkpoint_bytes * self.num_checkpoints + self.model_bytes


def check_room(need: Need, *, folder: Path) -> None:
    """Raise DiskFull where the disk of a run directory is too small for a run.

    What an earlier attempt has left there need not be written again.
    """
    there = _size(folder.rglob("*"))
    free = shutil.disk_usage(folder).free
    missing = need.total_bytes - there - free
    if missing <= 0:
        return
    raise DiskFull(
        f"the run needs about {_mb(need.total_bytes - there)} of disk, {need.num_checkpoints} "
        f"checkpoints of {_mb(need.checkpoint_bytes)} and a model of {_mb(need.model_bytes)}; "
        f"{_mb(free)} are free.",
        hint="Free some space on the worker's disk, lower checkpoints.keep, or train an adapter.",
        param="checkpoints.keep",
        detail={"needed_bytes": need.total_bytes - there, "free_bytes": free},
    )


def estimate_need(spec: JobSpec, base: BaseModel, *, num_train_rows: int) -> Need:
    """Return what a run with a resolved spec will save, at the least."""
    # Checkpoints and models are saved as they are trained.
    weight_bytes = base.num_weights * WEIGHT_BYTES
    if spec.adapter is not None:  # its own weights are few
        return Need(0, 0, weight_bytes if spec.adapter.output == "merged" else 0)
    has_all_moments = not spec.training.freeze
    moments = num_moments(spec.training.optimizer) if has_all_moments else 0
    num_saves = _num_saves(spec, num_train_rows=num_train_rows)
    # One more than are kept: the oldest goes once the newest is there.
    num_checkpoints = min(num_saves, spec.checkpoints.keep + 1)
    return Need(weight_bytes * (1 + moments), num_checkpoints, weight_bytes)


def _num_saves(spec: JobSpec, *, num_train_rows: int) -> int:
    """Return how often a run saves a checkpoint, best ones between not counted."""
    num_steps = num_optimizer_steps(spec, num_train_rows=num_train_rows)
    every = -(-num_train_rows // spec.training.batch_size)
    match spec.checkpoints.strategy:
        case "no":
            return 0
        case "steps":
            every = spec.checkpoints.steps or every
        case "evaluation":
            every = spec.evaluation.steps or every
        case "epoch":
            pass
    return max(1, num_steps // every)


def _size(paths: Iterable[Path]) -> int:
    return sum(path.lstat().st_size for path in paths if path.is_file() and not path.is_symlink())


def _mb(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.0f} MB"
