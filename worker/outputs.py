"""From a finished run directory to stored files, and what is left of runs."""

import logging
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy.exc import DBAPIError

from jobs.backends import Backends
from jobs.records import Job
from jobs.retention import expire_checkpoints
from jobs.states import FINAL, State
from jobs.store import artifacts, jobs
from trainer_core.errors import JobNotFound, ProcessDied, ServiceUnavailable
from trainer_core.run_directory import (
    MANIFEST,
    RunDirectory,
    checkpoints_in,
    file_sha256,
    step_of,
    verified_manifest,
)
from worker.inputs import runs_of
from worker.patience import pauses, rest

_HEAVY = ("checkpoints", "storing", "evaluations", "model", "inputs", "cache")

_log = logging.getLogger(__name__)


def store_model(
    backends: Backends, job: Job, run: RunDirectory, *, check: Callable[[], None]
) -> list[dict[str, Any]]:
    """Store the files of a verified model and return them as rows of `artifacts`.

    Nobody sees the files until the rows are committed, so a model is there whole or not at all. A
    storage that fails is tried for as long as it takes: it must not cost the training.

    Args:
        backends: where to.
        job: whose model it is.
        run: the finished run.
        check: called again and again; what it raises ends the storing.

    Raises:
        ProcessDied: the process said it succeeded, and its model is not whole.
    """
    files = verified_manifest(run.model)
    if files is None:
        raise ProcessDied(
            "the training process reported success, but its model is incomplete.",
            hint="See the job's log.",
        )
    manifest = run.model / MANIFEST
    rows: list[dict[str, Any]] = [
        {"path": file.path, "size_bytes": file.size_bytes, "sha256": file.sha256} for file in files
    ]
    rows.append(
        {
            "path": MANIFEST,
            "size_bytes": manifest.stat().st_size,
            "sha256": file_sha256(manifest),
        }
    )
    for row in rows:
        row["key"] = f"jobs/{job.id}/attempt-{job.attempt}/model/{row['path']}"
    forget_unnamed(backends, job.id, last_attempt=job.attempt - 1)
    try:
        for row in rows:
            _put(backends, run, row, check)
    except BaseException:
        forget_unnamed(backends, job.id, last_attempt=job.attempt)
        raise
    return rows


def forget_unnamed(backends: Backends, job_id: str, *, last_attempt: int) -> None:
    """Delete what attempts have stored that no row names; what can't be deleted is only logged.

    A worker may die between storing a model and naming it. Of later attempts nothing is touched:
    one may be storing its own.
    """
    try:
        stored = backends.storage.keys(f"jobs/{job_id}/")
        if not stored:
            return
        with backends.database.transaction() as tx:
            named = {file.key for file in artifacts.of_job(tx, job_id)}
        unnamed = [
            key
            for key in stored
            if key not in named and _is_of_model(key) and _attempt_of(key) <= last_attempt
        ]
        backends.storage.delete(*unnamed)
    except (ServiceUnavailable, DBAPIError) as error:  # another time
        _log.warning("files are left in the storage: %s", error, extra={"action": "files_left"})


def _is_of_model(key: str) -> bool:
    """Return whether a stored file is of a finished model: checkpoints have rows of their own."""
    return key.split("/")[3] == "model"


def _attempt_of(key: str) -> int:
    """Return which attempt has stored a file, by its key."""
    return int(key.split("/")[2].removeprefix("attempt-"))


def tidy(run: RunDirectory, *, state: State, is_keeping_checkpoint: bool) -> None:
    """Free the disk once a job has ended; of a failure the log and the small files stay.

    Args:
        run: its latest attempt.
        state: how the job ended.
        is_keeping_checkpoint: keep the newest checkpoint of a failure, too.
    """
    folder = run.path.parent
    if state is State.SUCCEEDED:
        shutil.rmtree(folder, ignore_errors=True)
        return
    is_kept = is_keeping_checkpoint and state is State.FAILED
    kept = _newest_checkpoint(folder) if is_kept else None
    for heavy in _heavy_parts(folder):
        if kept is None or heavy != kept.parent:
            shutil.rmtree(heavy, ignore_errors=True)
            continue
        for checkpoint in heavy.iterdir():
            if checkpoint != kept:
                shutil.rmtree(checkpoint, ignore_errors=True)


def tidy_finished(backends: Backends) -> None:
    """Tidy after jobs that ended without this machine, or so long ago that nothing need be kept."""
    _tidy_ended(backends, kept_for=timedelta(days=backends.settings.keep_failed_days))


def make_room(backends: Backends) -> None:
    """Give up the checkpoints of jobs that have ended: another job needs the disk."""
    try:
        _tidy_ended(backends, kept_for=timedelta(0))
        if backends.storage.is_on_disk_of(backends.settings.home):
            expire_checkpoints(backends, days=0)  # they may be the same files
    except DBAPIError as error:  # another time
        _log.warning("could not make room: %s", error)


def _tidy_ended(backends: Backends, *, kept_for: timedelta) -> None:
    for folder in runs_of(backends).glob("job_*"):
        if not _heavy_parts(folder):
            continue
        try:
            with backends.database.transaction() as tx:
                job = jobs.get_any(tx, folder.name)
        except JobNotFound:
            continue  # of another database: not ours to remove
        if job.state in FINAL:
            is_fresh = job.finished_at is None or datetime.now(UTC) - job.finished_at < kept_for
            forget_unnamed(backends, job.id, last_attempt=job.attempt)
            run = RunDirectory(folder / "attempt-0")
            tidy(run, state=job.state, is_keeping_checkpoint=is_fresh)


def _heavy_parts(folder: Path) -> list[Path]:
    return [path for name in _HEAVY for path in folder.glob(f"attempt-*/{name}")]


def _newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint of a job; what has a manifest was whole when it came."""
    saved = [one for part in folder.glob("attempt-*/checkpoints") for one in checkpoints_in(part)]
    whole = [one for one in saved if (one / MANIFEST).exists()]
    return max(whole, key=step_of, default=None)


def _put(
    backends: Backends, run: RunDirectory, row: dict[str, Any], check: Callable[[], None]
) -> None:
    for pause in pauses():
        check()
        try:
            stored = backends.storage.put(row["key"], run.model / row["path"])
        except ServiceUnavailable as error:
            _log.warning("storing %s failed, again in %d s: %s", row["path"], pause, error)
            rest(pause, check)
            continue
        if stored.sha256 != row["sha256"]:
            raise ProcessDied(f"{row['path']} changed while it was stored.", hint="Submit again.")
        return
