"""The files that a job made."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, delete, func, insert, or_, select

from jobs.records import Artifact
from jobs.states import FINAL
from jobs.tables import artifacts, jobs
from jobs.transaction import Transaction
from trainer_core.errors import FileNotFound, ModelInUse

_OF_JOB = (
    select(artifacts).where(artifacts.c.job_id == bindparam("wanted")).order_by(artifacts.c.path)
)


def add(tx: Transaction, job_id: str, files: Sequence[dict[str, Any]]) -> None:
    """Keep the files of a job: `path`, `key`, `size_bytes` and `sha256` of each."""
    tx.connection.execute(insert(artifacts), [{"job_id": job_id, **file} for file in files])


def of_job(tx: Transaction, job_id: str) -> list[Artifact]:
    """Return the files of a job, by path."""
    rows = tx.connection.execute(_OF_JOB, {"wanted": job_id})
    return [Artifact(**row._mapping) for row in rows]


def get(tx: Transaction, job_id: str, path: str) -> Artifact:
    """Return one file of a job, or raise FileNotFound. The path is a key, never opened as one."""
    row = tx.connection.execute(
        select(artifacts).where(artifacts.c.job_id == job_id, artifacts.c.path == path)
    ).one_or_none()
    if row is None:
        raise FileNotFound(
            f"job {job_id} has no file '{path[:200]}'.",
            hint=f"GET /jobs/{job_id} lists its files under `artifacts`.",
            param="path",
        )
    return Artifact(**row._mapping)


def remove(tx: Transaction, job_id: str) -> list[str]:
    """Forget the model of a job; return its keys, to be deleted after the commit.

    Raises:
        ModelInUse: a job that has not ended begins with it.
    """
    reference = f"job:{job_id}"
    begins_with_it = or_(jobs.c.model == reference, jobs.c.model.startswith(f"{reference}/"))
    first, number = tx.connection.execute(
        select(func.min(jobs.c.id), func.count()).where(begins_with_it, jobs.c.state.not_in(FINAL))
    ).one()
    if number:
        raise ModelInUse(
            f"{number} jobs that have not ended begin with the model of {job_id}, first {first}.",
            hint="Cancel them or wait for their end.",
            detail={"job_id": first, "num_jobs": number},
        )
    rows = tx.connection.execute(
        delete(artifacts).where(artifacts.c.job_id == job_id).returning(artifacts.c.key)
    )
    return list(rows.scalars())
