"""Checkpoints of a run: which there are, which is the newest that is whole, which may go."""

from pathlib import Path

from trainer_core.events import Reporter, Warned
from trainer_core.run_directory import checkpoints_in, step_of, verified_manifest
from trainer_core.training.process.directories import discard


def checkpoint_path(folder: Path, *, step: int) -> Path:
    """Return where the checkpoint of a step is; transformers has the same name for it."""
    return folder / f"checkpoint-{step}"


def steps_saved(folder: Path) -> list[int]:
    """Return the steps that have a checkpoint, rising."""
    return [step_of(path) for path in checkpoints_in(folder)]


def newest_whole(folder: Path, *, reporter: Reporter) -> Path | None:
    """Return the newest checkpoint whose manifest verifies, and say which were passed over."""
    for path in reversed(checkpoints_in(folder)):
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
    for path in checkpoints_in(folder)[:-keep]:
        if step_of(path) != best_step:
            discard(path)
