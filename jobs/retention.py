"""What is deleted from the storage because its time has passed."""

import logging
from datetime import timedelta

from jobs.backends import Backends
from jobs.store import checkpoints
from trainer_core.errors import DiskFull, ServiceUnavailable

_log = logging.getLogger(__name__)


def expire_checkpoints(backends: Backends, *, days: float) -> None:
    """Let the checkpoints go of jobs that ended so many days ago, and delete their files."""
    with backends.database.transaction() as tx:
        checkpoints.expire(tx, kept_for=timedelta(days=days))
    remove_checkpoints(backends)


def remove_checkpoints(backends: Backends, *, job_id: str | None = None) -> None:
    """Delete the files of checkpoints that were let go, or were never stored whole.

    What can't be deleted is logged, and its row stays, for another time.
    """
    with backends.database.transaction() as tx:
        found = checkpoints.removable(tx, job_id=job_id)
    for one in found:
        try:
            backends.storage.delete(*one.keys)
        except (ServiceUnavailable, DiskFull) as error:
            _log.warning("%s is left in the storage: %s", one.key, error)
            continue
        with backends.database.transaction() as tx:
            checkpoints.forget(tx, one)
