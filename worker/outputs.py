"""From a finished run directory to stored files, and what is left of runs."""

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jobs.backends import Backends
from jobs.records import Job
from jobs.states import FINAL, State
from jobs.store import jobs
from trainer_core.errors import JobNotFound, ProcessDied, ServiceUnavailable
from trainer_core.run_directory import MANIFEST, RunDirectory, file_sha256, verified_manifest
from worker.inputs import runs_of

_RETRY_SECONDS = (1, 5, 15, 30)
_HEAVY = ("checkpoints", "evaluations", "model", "inputs", "cache")

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
    try:
        for row in rows:
            _put(backends, run, row, check)
    except BaseException:
        forget_files(backends, [row["key"] for row in rows])
        raise
    return rows


def forget_files(backends: Backends, keys: Sequence[str]) -> None:
    """Delete files that no row names; what can't be deleted is only logged."""
    try:
        backends.storage.delete(*keys)
    except ServiceUnavailable as error:
        _log.warning("files are left in the storage: %s", error, extra={"action": "files_left"})


def tidy(run: RunDirectory, *, is_keeping_records: bool) -> None:
    """Free the disk once a job has ended; the log and the small files of a failure stay."""
    folder = run.path.parent
    if not is_keeping_records:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for attempt in folder.glob("attempt-*"):
        for name in _HEAVY:
            shutil.rmtree(attempt / name, ignore_errors=True)


def tidy_finished(backends: Backends) -> None:
    """Tidy after jobs that ended without this machine: lost, drained and cancelled, moved."""
    for folder in runs_of(backends).glob("job_*"):
        try:
            with backends.database.transaction() as tx:
                state = jobs.get_any(tx, folder.name).state
        except JobNotFound:
            continue  # of another database: not ours to remove
        if state in FINAL:
            run = RunDirectory(folder / "attempt-0")
            tidy(run, is_keeping_records=state is not State.SUCCEEDED)


def _put(
    backends: Backends, run: RunDirectory, row: dict[str, Any], check: Callable[[], None]
) -> None:
    for pause in _pauses():
        check()
        try:
            stored = backends.storage.put(row["key"], run.model / row["path"])
        except ServiceUnavailable as error:
            _log.warning("storing %s failed, again in %d s: %s", row["path"], pause, error)
            _sleep(pause, check)
            continue
        if stored.sha256 != row["sha256"]:
            raise ProcessDied(f"{row['path']} changed while it was stored.", hint="Submit again.")
        return


def _pauses() -> Iterator[int]:
    yield from _RETRY_SECONDS
    while True:
        yield _RETRY_SECONDS[-1]


def _sleep(seconds: float, check: Callable[[], None]) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        check()
        time.sleep(0.2)
