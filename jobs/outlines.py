"""Models of the Hub without their weights: the small files, and the headers of the large ones.

    of-all/<commit>/                the files; those of weights hold a header, and a hole
    of-all/revisions/<hash>         the commit that a revision had when it was last asked for, and
                                    how many weights that has
    of-projects/<project>/...       the same of what a token of a project has fetched

They lie in the home, below `cache/outlines`. They are there to be looked at, never to be trained
on: no worker reads them.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jobs.hub import ask
from jobs.outlining import FETCH_SECONDS
from trainer_core.errors import ServiceUnavailable
from trainer_core.run_directory import read_json, write_json
from trainer_core.spec import Reference

_KEPT_BYTES = 1 << 30  # of all outlines
_JUST_USED_SECONDS = 900  # whoever looks at one is not done yet
_ABANDONED_SECONDS = 3600
_COMMITS = "[0-9a-f]" * 40
_REVISIONS, _DRAFT = "revisions", ".draft-"
_YES = {"1", "ON", "YES", "TRUE"}  # as the Hub's library reads its switches


@dataclass(frozen=True, slots=True)
class Outline:
    """What is there of a model."""

    folder: Path
    num_weights: int | None  # None where its files do not tell


def known_outline(model: Reference, *, home: Path, project: str | None) -> Outline | None:
    """Return an outline as it was last fetched, if it is there; nobody is asked.

    Args:
        model: on the Hub.
        home: of the service.
        project: whose token is to have fetched it; None for what everybody may see.
    """
    cache = _cache_of(home, project)
    try:
        note = read_json(_note_of(model, cache))
    except OSError:
        return None
    folder = cache / note["commit"]
    return Outline(folder, note["num_weights"]) if folder.is_dir() else None


def fetch_outline(
    model: Reference, *, home: Path, project: str | None, token: str | None
) -> Outline:
    """Return the outline of a model of the Hub, which is asked where its revision may have moved.

    Args:
        model: on the Hub.
        home: of the service.
        project: whose token it is; None without one.
        token: who asks; None for everybody.

    Raises:
        ModelNotFound: no such repository or revision, or not for everybody.
        ServiceUnavailable: the Hub did not answer, or not in time, or it is too large.
        OSError: it can't be kept.
    """
    known = known_outline(model, home=home, project=project)
    if known is None and _is_offline():
        raise ServiceUnavailable(
            f"hub:{model.name} was not looked at before, and HF_HUB_OFFLINE is set."
        )
    if known is None or not (_is_offline() or known.folder.name == model.revision):
        known = _fetched(model, cache=_cache_of(home, project), token=token)
        _prune(_root_of(home))
    os.utime(known.folder)
    return known


def _fetched(model: Reference, *, cache: Path, token: str | None) -> Outline:
    deadline = time.monotonic() + FETCH_SECONDS

    def check() -> None:
        if time.monotonic() > deadline:
            raise ServiceUnavailable(
                f"the Hub did not tell of hub:{model.name} within {FETCH_SECONDS} seconds."
            )

    note = _note_of(model, cache)
    note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=_DRAFT, dir=cache, ignore_cleanup_errors=True
    ) as folder:
        draft = Path(folder) / "model"
        found = ask(
            "jobs.outlining",
            [model.name, model.revision or "", str(cache), str(draft)],
            repository=model.name,
            check=check,
            token=token,
        )
        _publish(draft, cache / found["commit"])
        write_json(draft.with_name("note.json"), found)
        draft.with_name("note.json").replace(note)
    return Outline(cache / found["commit"], found["num_weights"])


def _publish(draft: Path, folder: Path) -> None:
    """Put an outline in its place, unless it was there, or another request was faster."""
    try:
        draft.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _prune(root: Path) -> None:
    """Remove what was not used for longest, as far as there is more than may be kept."""
    num_bytes = 0
    with contextlib.suppress(OSError):  # another request may do the same
        for draft in root.rglob(f"{_DRAFT}*"):
            if _seconds_since_use(draft) > _ABANDONED_SECONDS:
                shutil.rmtree(draft, ignore_errors=True)
        for outline in sorted(_outlines_in(root), key=_seconds_since_use):
            num_bytes += sum(path.stat().st_blocks * 512 for path in outline.rglob("*"))
            if num_bytes > _KEPT_BYTES and _seconds_since_use(outline) > _JUST_USED_SECONDS:
                shutil.rmtree(outline, ignore_errors=True)
        for note in root.rglob(f"{_REVISIONS}/*"):
            if not (note.parent.parent / read_json(note)["commit"]).is_dir():
                note.unlink(missing_ok=True)


def _outlines_in(root: Path) -> Iterator[Path]:
    yield from root.glob(f"of-all/{_COMMITS}")
    yield from root.glob(f"of-projects/*/{_COMMITS}")


def _seconds_since_use(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def _note_of(model: Reference, cache: Path) -> Path:
    """Return the file that holds the commit of a model's revision, whose name may have slashes."""
    named = f"{model.name}@{model.revision or ''}"
    return cache / _REVISIONS / hashlib.sha256(named.encode()).hexdigest()[:32]


def _root_of(home: Path) -> Path:
    return home / "cache" / "outlines"


def _cache_of(home: Path, project: str | None) -> Path:
    root = _root_of(home)
    return root / "of-all" if project is None else root / "of-projects" / project


def _is_offline() -> bool:
    switches = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(switch, "").upper() in _YES for switch in switches)
