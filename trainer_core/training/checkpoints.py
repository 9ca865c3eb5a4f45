"""Checkpoints of a run: which there are, which is the newest that is whole, which may go."""

import re
from pathlib import Path

from trainer_core.events import Reporter, Warned
from trainer_core.run_directory import verified_manifest
from trainer_core.training.directories import discard

LINEAGE = "lineage.json"  # what a resumed run compares itself with
_NAME = re.compile(r"checkpoint-(\d+)")


def checkpoint_path(folder: Path, *, step: int) -> Path:
    """Return where the checkpoint of a step is; transformers has the same name for it."""
    return folder / f"checkpoint-{step}"


def steps_saved(folder: Path) -> list[int]:
    """Return the steps that have a checkpoint, rising."""
    matches = (_NAME.fullmatch(path.name) for path in folder.glob("checkpoint-*"))
    return sorted(int(match[1]) for match in matches if match)


def step_of(path: Path) -> int:
    """Return the step of a checkpoint's path."""
    return int(path.name.rpartition("-")[2])


def newest_whole(folder: Path, *, reporter: Reporter) -> Path | None:
    """Return the newest checkpoint whose manifest verifies, and say which were passed over."""
    for step in reversed(steps_saved(folder)):
        path = checkpoint_path(folder, step=step)
        if verified_manifest(path) is not None:
            return path
        reporter.report(
            Warned(
                "checkpoint_damaged",
                f"{path.name} is damaged or incomplete and is passed over.",
                "Look at the disk if nothing was killed.",
            )
        )
    return None


def rotate(folder: Path, *, keep: int, best_step: int | None) -> None:
    """Remove all checkpoints but the newest ones and the best."""
    for step in steps_saved(folder)[:-keep]:
        if step != best_step:
            discard(checkpoint_path(folder, step=step))
