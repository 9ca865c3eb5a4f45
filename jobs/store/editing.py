"""What the owner of a job may change, and its deletion."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, func, or_, select, update

from jobs.records import Job
from jobs.states import FINAL, State
from jobs.store.artifacts import of_job
from jobs.store.jobs import get, job_of, keep_labels
from jobs.tables import jobs
from jobs.transaction import Transaction
from trainer_core.errors import IllegalTransition, JobInUse

EDITABLE = frozenset({"name", "notes", "labels", "priority"})


def edit(tx: Transaction, job: Job, values: Mapping[str, Any]) -> Job:
    """Give a job that is locked new values of EDITABLE columns; its spec stays as it was given."""
    assert values.keys() <= EDITABLE, values
    if all(getattr(job, name) == value for name, value in values.items()):
        return job
    row = tx.connection.execute(
        update(jobs)
        .where(jobs.c.id == job.id)
        .values(**values, version=jobs.c.version + 1, updated_at=func.now())
        .returning(jobs)
    ).one()
    edited = job_of(row)
    if edited.labels != job.labels:
        keep_labels(tx, edited)
    return edited


def remove(tx: Transaction, job_id: str, *, project: str) -> list[str]:
    """Forget a job that has ended, and return the keys of its files, to be deleted afterwards.

    Raises:
        JobNotFound: no such job.
        IllegalTransition: it has not ended.
        JobInUse: a job that has not ended trains its model further.
    """
    job = get(tx, job_id, project=project, is_locked=True)
    if job.state not in FINAL:
        raise IllegalTransition(
            f"job {job_id} is {job.state}, and only jobs that have ended can be deleted.",
            hint=f"POST /jobs/{job_id}/cancel ends it.",
            detail={"state": job.state},
        )
    _check_unused(tx, job)
    keys = [artifact.key for artifact in of_job(tx, job_id)]
    tx.connection.execute(delete(jobs).where(jobs.c.id == job_id))
    return keys


def _check_unused(tx: Transaction, job: Job) -> None:
    reference = f"job:{job.id}"
    user = tx.connection.execute(
        select(jobs.c.id)
        .where(
            jobs.c.project == job.project,
            or_(jobs.c.model == reference, jobs.c.model.startswith(f"{reference}/")),
            jobs.c.state.in_(set(State) - FINAL),
        )
        .order_by(jobs.c.id)
        .limit(1)
    ).scalar_one_or_none()
    if user is not None:
        raise JobInUse(
            f"job {user}, which has not ended, trains the model of {job.id} further.",
            hint="Cancel it or wait for its end.",
            detail={"job_id": user},
        )
