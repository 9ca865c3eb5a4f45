"""From a finished run directory to stored files."""

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

from jobs.backends import Backends
from jobs.records import Job
from trainer_core.errors import ProcessDied, ServiceUnavailable
from trainer_core.run_directory import MANIFEST, RunDirectory, file_sha256, verified_manifest

_RETRY_SECONDS = (1, 5, 15, 60)
_HEAVY = ("checkpoints", "model", "inputs", "cache")

_log = logging.getLogger(__name__)


def store_model(
    backends: Backends, job: Job, run: RunDirectory, *, check: Callable[[], None]
) -> list[dict[str, Any]]:
    """Store the files of a verified model and return them as rows of `artifacts`.

    Nobody sees the files until the rows are committed, so a model is there whole or not at all.

    Args:
        backends: where to.
        job: whose model it is.
        run: the finished run.
        check: called between files; raises if the attempt no longer holds the job.

    Raises:
        ProcessDied: the process said it succeeded, and its model is not whole.
        ServiceUnavailable: the storage kept failing.
    """
    files = verified_manifest(run.model)
    if files is None:
        raise ProcessDied(
            "the training process reported success, but its model is incomplete.",
            hint="See the job's log.",
        )
    prefix = f"jobs/{job.id}/attempt-{job.attempt}/model"
    manifest = run.model / MANIFEST
    rows = [
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
        check()
        row["key"] = f"{prefix}/{row['path']}"
        _put(backends, run, row, check)
    return rows


def forget_model(backends: Backends, rows: list[dict[str, Any]]) -> None:
    """Delete files whose rows could not be committed."""
    backends.storage.delete(*(row["key"] for row in rows))


def tidy(run: RunDirectory, *, is_keeping_records: bool) -> None:
    """Free the disk once a job has ended; the log and the small files of a failure stay."""
    folder = run.path.parent
    if not is_keeping_records:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for attempt in folder.iterdir():
        for name in _HEAVY:
            shutil.rmtree(attempt / name, ignore_errors=True)


def _put(
    backends: Backends, run: RunDirectory, row: dict[str, Any], check: Callable[[], None]
) -> None:
    for pause in _pauses():
        try:
            stored = backends.storage.put(row["key"], run.model / row["path"])
        except ServiceUnavailable as error:
            if pause is None:
                raise
            _log.warning("storing %s failed, again in %d s: %s", row["path"], pause, error)
            time.sleep(pause)
            check()
            continue
        if stored.sha256 != row["sha256"]:
            raise ProcessDied(f"{row['path']} changed while it was stored.", hint="Submit again.")
        return


def _pauses() -> Iterator[int | None]:
    yield from _RETRY_SECONDS
    yield None
