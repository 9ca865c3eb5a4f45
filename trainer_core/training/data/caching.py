"""What was made of rows before, kept on disk: entries that are whole or absent.

    <key>/entry.json   written last: what is in the entry, and how long each of its files is
    <key>/...          the files

A key is a hash of all that an entry depends on, so that an entry is never out of date. One that is
cut off, or not what its name says, counts as absent and is written anew. Any number of runs may
use a folder at once.
"""

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer_core.run_directory import fsync_directory, read_json, write_json

_ENTRY = "entry.json"
_PARTIAL = ".partial-"
_DISCARDED = ".discarded-"
_ABANDONED_SECONDS = 86_400  # a partial entry that nobody has touched for so long has no writer
_SOMETHING_IS_THERE = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}
_JUST_USED_SECONDS = 60  # a run that has found an entry needs time to open its files


@dataclass(frozen=True, slots=True)
class Entry:
    """Files that are kept, and what was written of them."""

    folder: Path
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Draft:
    """An entry in the making."""

    folder: Path
    values: dict[str, Any] = field(default_factory=dict)  # JSON-ready


class Cache:
    """A folder of entries."""

    def __init__(self, root: Path, *, max_bytes: int | None = None) -> None:
        """Use a folder, which is made for this user alone.

        Args:
            root: the folder.
            max_bytes: how much is left in it when a run ends; None if nothing outlives the run.
        """
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root = root
        self._max_bytes = max_bytes
        self._asked: Counter[str] = Counter()

    @property
    def is_kept(self) -> bool:
        """Whether entries outlive the run."""
        return self._max_bytes is not None

    def claim(self, key: str) -> str:
        """Return the key, or another one each further time that this run asks for the same."""
        self._asked[key] += 1
        return key if self._asked[key] == 1 else f"{key}-{self._asked[key]}"

    def find(self, key: str) -> Entry | None:
        """Return an entry that is whole, which counts as used from now on."""
        folder = self._root / key
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            entry = read_json(folder / _ENTRY)
            if entry["key"] == key and dict(entry["files"]) == _sizes(folder):
                os.utime(folder / _ENTRY)
                return Entry(folder, entry["values"])
        return None

    @contextmanager
    def adding(self, key: str) -> Iterator[Draft]:
        """Give an empty folder to fill; it becomes the entry if the block ends well."""
        draft = Draft(self._root / f"{_PARTIAL}{key}-{secrets.token_hex(8)}")
        draft.folder.mkdir(mode=0o700)
        try:
            yield draft
            files = _sizes(draft.folder)
            if self.is_kept:
                for name in files:
                    _sync(draft.folder / name)
            values = {"key": key, "files": files, "values": draft.values}
            write_json(draft.folder / _ENTRY, values)
            self._publish(draft.folder, key)
        except BaseException:
            shutil.rmtree(draft.folder, ignore_errors=True)  # a full disk needs the room
            raise

    def _publish(self, folder: Path, key: str) -> None:
        """Put an entry in its place, unless another run has done so in the meantime."""
        while True:
            try:
                folder.rename(self._root / key)
            except OSError as error:
                if error.errno not in _SOMETHING_IS_THERE:
                    raise
            else:
                fsync_directory(self._root)
                return
            if self.find(key) is not None:
                shutil.rmtree(folder)
                return
            _discard(self._root / key)

    def prune(self) -> None:
        """Remove what was not used for longest, as far as there is more than may be kept."""
        if self._max_bytes is None:
            return
        with contextlib.suppress(OSError):  # another run may do the same
            self._clear_leftovers()
            used = sorted(map(_use_of, self._root.glob("[!.]*")), key=lambda use: use.at)
            num_bytes = sum(use.num_bytes for use in used)
            for use in used:
                if num_bytes <= self._max_bytes or time.time() - use.at < _JUST_USED_SECONDS:
                    return
                _discard(use.folder)
                num_bytes -= use.num_bytes

    def _clear_leftovers(self) -> None:
        for folder in self._root.glob(f"{_DISCARDED}*"):
            shutil.rmtree(folder, ignore_errors=True)
        for folder in self._root.glob(f"{_PARTIAL}*"):
            newest = max((path.stat().st_mtime for path in folder.iterdir()), default=0.0)
            if time.time() - max(newest, folder.stat().st_mtime) > _ABANDONED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Use:
    folder: Path
    num_bytes: int
    at: float  # seconds since the epoch; 0 if the entry is none


def _use_of(folder: Path) -> _Use:
    entry = folder / _ENTRY
    at = entry.stat().st_mtime if entry.exists() else 0.0
    return _Use(folder, sum(_sizes(folder).values()), at)


def _sizes(folder: Path) -> dict[str, int]:
    """Return the size in bytes of each file of an entry; a link is none."""
    return {
        path.name: path.stat().st_size
        for path in folder.iterdir()
        if path.name != _ENTRY and path.is_file() and not path.is_symlink()
    }


def _discard(folder: Path) -> None:
    """Remove an entry so that nobody sees half of it under its name."""
    discarded = folder.with_name(f"{_DISCARDED}{secrets.token_hex(8)}")
    with contextlib.suppress(FileNotFoundError):  # another run was faster
        folder.rename(discarded)
        if discarded.is_dir():
            shutil.rmtree(discarded, ignore_errors=True)
        else:
            discarded.unlink()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
