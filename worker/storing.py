"""Copies checkpoints to the storage while training goes on, so that another machine can go on.

The training process knows nothing of it: a thread of the worker looks for sealed checkpoints,
newest first. What fails is told as a warning and tried again; it never ends a run.
"""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from sqlalchemy.exc import DBAPIError

from jobs.backends import Backends
from jobs.records import Checkpoint, Job
from jobs.retention import remove_checkpoints
from jobs.store import checkpoints
from jobs.store.events import LeaseLost
from trainer_core.errors import DiskFull, ServiceUnavailable
from trainer_core.events import EventType
from trainer_core.failpoints import failpoint
from trainer_core.run_directory import (
    MANIFEST,
    ManifestFile,
    RunDirectory,
    checkpoints_in,
    file_sha256,
    read_json,
    step_of,
)

_LOOK_SECONDS = 0.5
_RETRY_SECONDS = 5.0
_JOIN_SECONDS = 5.0  # a storage that hangs is left behind: it can't finish anything any more

_log = logging.getLogger(__name__)


class _Ended(Exception):
    """The attempt is over, and with it the storing."""


class _Changed(Exception):
    """A file is not what the manifest of its checkpoint says."""


class Teller(Protocol):
    """Who knows what the process has said, and can say more: the pump."""

    def said_of(self, step: int) -> Mapping[str, Any] | None:
        """Return the event of a checkpoint of this attempt."""

    def say(self, kind: EventType, data: dict[str, Any]) -> None:
        """Add an event of the worker's own."""


class CheckpointStore:
    """Stores the checkpoints of one attempt in the background."""

    def __init__(self, backends: Backends, job: Job, run: RunDirectory, *, teller: Teller) -> None:
        self._backends = backends
        self._job = job
        self._run = run
        self._teller = teller
        self._ended = threading.Event()
        self._wake = threading.Event()
        self._idle = threading.Event()  # nothing is left to store, and nothing more will come
        self._is_training = True
        self._is_failing = False
        self._is_known = False  # what is stored
        self._stored: set[str] = set()  # hashes of manifests
        self._seen: set[str] = set()  # that need not be looked at again
        self._before = {path.name for path in checkpoints_in(run.checkpoints)}
        self._thread = threading.Thread(target=self._work, name=f"store-{job.id}", daemon=True)

    def __enter__(self) -> Self:
        if self._backends.settings.store_checkpoints:
            self._thread.start()
        else:
            self._idle.set()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(_JOIN_SECONDS)

    def finish(self, *, seconds: float, is_wanted: Callable[[], bool]) -> bool:
        """Wait until all that the process has left is stored; return whether it is.

        Args:
            seconds: how long at most.
            is_wanted: asked again and again; False ends the waiting.
        """
        deadline = time.monotonic() + seconds
        self._is_training = False
        self._wake.set()
        while not self._idle.is_set() and time.monotonic() < deadline and is_wanted():
            self._idle.wait(0.1)
        return self._idle.is_set()

    def _work(self) -> None:
        try:
            while not self._ended.is_set():
                self._turn()
                self._wake.wait(_LOOK_SECONDS)
                self._wake.clear()
        except (LeaseLost, _Ended):
            return
        except Exception:  # noqa: BLE001 - the run must not end by it
            _log.exception("checkpoints of %s are no longer stored", self._job.id)
        finally:
            self._idle.set()

    def _turn(self) -> None:
        is_last = not self._is_training
        try:
            self._store_all()
        except (ServiceUnavailable, DiskFull, DBAPIError, OSError) as error:
            self._is_known = False  # the answer to a commit may have been lost
            self._tell(error)
            self._ended.wait(_RETRY_SECONDS)
            return
        self._is_failing = False
        if is_last:
            self._idle.set()

    def _store_all(self) -> None:
        if not self._is_known:
            with self._backends.database.transaction() as tx:
                stored = checkpoints.of_any(tx, self._job.id)
            self._stored = {one.files[-1]["sha256"] for one in stored}
            self._is_known = True
        while (found := self._next()) is not None:
            path, sha256 = found
            self._store(path, sha256)
            self._seen.add(sha256)

    def _next(self) -> tuple[Path, str] | None:
        """Return the newest checkpoint that is not stored, and the hash of its manifest."""
        for path in reversed(checkpoints_in(self._run.checkpoints)):
            is_told = path.name in self._before or self._teller.said_of(step_of(path)) is not None
            if not is_told and self._is_training:
                continue  # its figures are about to come
            try:
                sha256 = file_sha256(path / MANIFEST)
            except FileNotFoundError:
                continue  # it has just been removed, or has lost its manifest
            if sha256 not in self._stored | self._seen:
                return path, sha256
        return None

    def _store(self, path: Path, sha256: str) -> None:
        """Store one checkpoint, unless it is removed or turns out to be damaged meanwhile."""
        held = self._run.storing / path.name
        shutil.rmtree(held, ignore_errors=True)
        try:
            # Second names for its files: the process may remove the first ones at any time.
            shutil.copytree(path, held, copy_function=_link)
            self._put(held, sha256, step=step_of(path))
        except _Changed as error:
            self._warn("checkpoint_damaged", f"{path.name} is damaged and not stored: {error}.")
        except (FileNotFoundError, shutil.Error) as error:
            if path.exists():
                raise
            _log.info("%s went away before it was stored: %s", path.name, error)
        finally:
            shutil.rmtree(held, ignore_errors=True)

    def _put(self, held: Path, sha256: str, *, step: int) -> None:
        named = [ManifestFile(**file) for file in read_json(held / MANIFEST)["files"]]
        manifest = ManifestFile(MANIFEST, (held / MANIFEST).stat().st_size, sha256)
        key = f"jobs/{self._job.id}/attempt-{self._job.attempt}/{held.name}"
        told = self._teller.said_of(step) or {}
        mine: dict[str, Any] = {"attempt": self._job.attempt, "step": step}
        with self._backends.database.transaction() as tx:
            checkpoints.begin(
                tx,
                self._job.id,
                **mine,
                key=key,
                files=[asdict(file) for file in (*named, manifest)],
                metrics=told.get("metrics", {}),
                is_best=bool(told.get("is_best")),
            )
        keys = []
        try:
            for file in (*named, manifest):
                self._check()
                failpoint("worker.storing")
                keys.append(f"{key}/{file.path}")
                stored = self._backends.storage.keep(keys[-1], held / file.path, check=self._check)
                if stored.sha256 != file.sha256:
                    raise _Changed(f"{file.path} is not what its manifest says")
            keep = self._job.spec["checkpoints"]["keep"]
            with self._backends.database.transaction() as tx:
                checkpoints.complete(tx, self._job.id, **mine, keep=keep)
        except (LeaseLost, _Ended):
            # Of an attempt that was overtaken the row may be gone, and nobody knows the files.
            self._forget(keys)
            raise
        self._stored.add(sha256)
        remove_checkpoints(self._backends, job_id=self._job.id)

    def _forget(self, keys: list[str]) -> None:
        """Delete what was put in vain."""
        try:
            self._backends.storage.delete(*keys)
        except (ServiceUnavailable, DiskFull) as error:
            _log.warning("files are left in the storage: %s", error, extra={"action": "files_left"})

    def _check(self) -> None:
        if self._ended.is_set():
            raise _Ended

    def _tell(self, error: Exception) -> None:
        """Say once that storing fails, until it has worked again."""
        _log.warning("could not store a checkpoint of %s: %s", self._job.id, error)
        if not self._is_failing:
            self._is_failing = True
            what = error if isinstance(error, ServiceUnavailable | DiskFull) else "see its log"
            self._warn(
                "checkpoint_not_stored",
                f"the worker can't copy checkpoints to the storage: {what}. Training goes on, and "
                "it is tried again; until then only this worker can go on from them.",
            )

    def _warn(self, code: str, message: str) -> None:
        try:
            self._teller.say(EventType.WARNING, {"code": code, "message": message, "hint": ""})
        except DBAPIError as error:
            _log.warning("could not say '%s': %s", message, error.orig)
        except LeaseLost as error:
            raise _Ended from error


def is_stored(checkpoint: Path, stored: Sequence[Checkpoint]) -> bool:
    """Return whether a checkpoint of a run is among the stored ones."""
    manifest = checkpoint / MANIFEST
    hashes = {one.files[-1]["sha256"] for one in stored}
    return manifest.exists() and file_sha256(manifest) in hashes


def _link(source: str, target: str) -> None:
    """Give a file a second name, or a copy where there are none."""
    try:
        Path(target).hardlink_to(source)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)
