"""Directories that are there whole and sealed, or not at all: checkpoints, the finished model."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer_core.failpoints import failpoint
from trainer_core.run_directory import fsync_directory, seal

_PARTIAL = ".partial-"
_DISCARDED = ".discarded-"


@contextmanager
def whole_or_absent(path: Path) -> Iterator[Path]:
    """Yield an empty directory to fill; it becomes `path`, sealed, if the block ends well.

    What was at `path` before stays until then.
    """
    partial = partial_of(path)
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        yield partial
        for file in (path for path in partial.rglob("*") if path.is_file()):
            file.chmod(0o644)  # safetensors writes for the owner alone
        failpoint("directory.written")
        seal(partial)
        failpoint("directory.sealed")
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)  # a full disk needs the room
        raise
    if path.exists():
        discard(path)
    partial.rename(path)
    fsync_directory(path.parent)
    failpoint("directory.renamed")


def partial_of(path: Path) -> Path:
    """Return where a directory is while it is filled."""
    return path.with_name(f"{_PARTIAL}{path.name}")


def discard(path: Path) -> None:
    """Remove a directory so that no one ever sees half of it under its name."""
    discarded = path.with_name(f"{_DISCARDED}{path.name}")
    if discarded.exists():
        shutil.rmtree(discarded)
    failpoint("directory.discarding")
    path.rename(discarded)
    shutil.rmtree(discarded)


def clear_leftovers(folder: Path) -> None:
    """Remove what a process that was killed left half-written or half-removed in a folder."""
    for pattern in (_PARTIAL, _DISCARDED):
        for path in folder.glob(f"{pattern}*"):
            shutil.rmtree(path)
