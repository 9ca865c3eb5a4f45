"""The storage of data sets and models: a folder or a bucket, behind one interface (obstore)."""

import contextlib
import errno
import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from trainer_core.errors import DiskFull, ServiceUnavailable
from trainer_core.run_directory import fsync_directory

_CHUNK_BYTES = 8 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP)

_log = logging.getLogger(__name__)


class FileLost(ServiceUnavailable):
    """A file is not in the storage where it should be; trying again does not bring it back."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What was written."""

    size_bytes: int
    sha256: str


class Storage:
    """Keeps files under keys that the service makes; a tenant never names one."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._root = Path(unquote(parts.path)) if parts.scheme == "file" else None
        if self._root is not None:
            self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._store: Any = LocalStore(self._root)
        else:
            self._store = from_url(url)

    def put(self, key: str, source: Path | Iterable[bytes]) -> Stored:
        """Write a file, streamed; it is visible only once it is whole.

        What the source raises ends the writing, and is raised.
        """
        digest = hashlib.sha256()
        size = 0
        ended: Exception | None = None

        def counted() -> Iterator[bytes]:
            nonlocal size, ended
            try:
                for chunk in _chunks(source):
                    digest.update(chunk)
                    size += len(chunk)
                    yield chunk
            except Exception as error:
                ended = error
                raise

        with _translated(key):
            try:
                obstore.put(self._store, key, counted(), chunk_size=_CHUNK_BYTES, max_concurrency=2)
            except Exception:
                if ended is not None:  # a part on its way fails too, as the upload is given up
                    raise ended from None
                raise
            if self._root is not None:
                _make_durable(self._root / key, root=self._root)
        return Stored(size, digest.hexdigest())

    def keep(self, key: str, source: Path, *, check: Callable[[], None]) -> Stored:
        """Write a file that will never change: on one file system it only gets a second name.

        Args:
            key: where to.
            source: the file.
            check: called again and again; what it raises ends the writing, and nothing is visible.
        """

        def checked() -> Iterator[bytes]:
            for chunk in _chunks(source):
                check()
                yield chunk

        if self._root is None or not self._link(key, source):
            return self.put(key, checked())
        digest = hashlib.sha256()
        size = 0
        for chunk in checked():
            digest.update(chunk)
            size += len(chunk)
        return Stored(size, digest.hexdigest())

    @property
    def is_folder(self) -> bool:
        """Whether the files lie on a file system of this machine."""
        return self._root is not None

    def is_on_disk_of(self, folder: Path) -> bool:
        """Return whether what is stored takes room from a folder of this machine."""
        return self._root is not None and self._root.stat().st_dev == folder.stat().st_dev

    def read(self, key: str, *, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes of a file from `start` up to, not including, `end`."""
        while start < end:
            stop = min(start + _CHUNK_BYTES, end)
            with _translated(key):
                chunk = bytes(obstore.get_range(self._store, key, start=start, end=stop))
            yield chunk
            start = stop

    @contextlib.contextmanager
    def local(self, key: str) -> Iterator[Path]:
        """Give a path at which the file can be read for a while; it must not be changed."""
        if self._root is not None:
            if not (path := self._root / key).is_file():
                raise _lost(key)
            yield path
            return
        with tempfile.NamedTemporaryFile(suffix=Path(key).suffix) as copy:
            self._download(key, Path(copy.name), _nothing)
            yield Path(copy.name)

    def fetch(self, key: str, target: Path, *, check: Callable[[], None] | None = None) -> None:
        """Put a copy of a file at `target`.

        Args:
            key: which.
            target: where to.
            check: called again and again; what it raises ends the copying.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        self._download(key, target, check or _nothing)

    def keys(self, prefix: str) -> list[str]:
        """Return the keys below a prefix, which ends with a slash."""
        with _translated(prefix):
            blocks = obstore.list(self._store, prefix)
            return [item["path"] for block in blocks for item in block]

    def delete(self, *keys: str) -> None:
        """Forget files; one that is not there is no error."""
        for key in keys:
            with _translated(key), contextlib.suppress(FileNotFoundError):
                obstore.delete(self._store, key)

    def _link(self, key: str, source: Path) -> bool:
        assert self._root is not None, "only a folder has links"
        target = self._root / key
        with _translated(key):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)  # of a try that broke off
            try:
                os.link(source, target)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                return False
            _make_durable(target, root=self._root)
        return True

    def _download(self, key: str, target: Path, check: Callable[[], None]) -> None:
        with _translated(key), target.open("wb") as file:
            for chunk in obstore.get(self._store, key).stream(min_chunk_size=_CHUNK_BYTES):
                check()
                file.write(chunk)


def _nothing() -> None:
    """Check nothing."""


def _make_durable(path: Path, *, root: Path) -> None:
    """Flush a file and the names that lead to it: the local store only renames."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    for folder in path.parents:
        fsync_directory(folder)
        if folder == root:
            return


def _chunks(source: Path | Iterable[bytes]) -> Iterator[bytes]:
    if not isinstance(source, Path):
        yield from source
        return
    with source.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


@contextlib.contextmanager
def _translated(key: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise _lost(key) from error
    except (BaseError, OSError) as error:
        # What it says may name folders of the server, so it is for the log alone.
        _log.error("the storage failed on %s: %s", key, error, extra={"action": "storage_failed"})
        if _is_full(error):
            raise DiskFull(
                "there is no room in the storage.", hint="Free some, or wait."
            ) from error
        raise ServiceUnavailable(
            f"the storage failed on {key}.", hint="Try again; see the service's log."
        ) from error


def _lost(key: str) -> FileLost:
    return FileLost(f"the storage has lost {key}.", hint="Upload or train it again.")


def _is_full(error: Exception) -> bool:
    # obstore tells the system's error in its text alone.
    is_told = any(f"(os error {number})" in str(error) for number in _FULL)
    return is_told or (isinstance(error, OSError) and error.errno in _FULL)
