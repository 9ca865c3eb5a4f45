"""What was said of jobs in OpenAI's words, and jobs listed by it."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import insert, select

from jobs.records import FineTune, Job
from jobs.store.jobs import job_of
from jobs.tables import artifacts, fine_tunes, jobs
from jobs.transaction import Transaction

_MAX_MODELS = 10_000
_WANDB = ("project", "entity", "name")


def create(tx: Transaction, job_id: str, values: Mapping[str, Any]) -> None:
    """Keep what was said of a new job: `suffix`, `metadata` and `integrations`."""
    tx.connection.execute(insert(fine_tunes).values(job_id=job_id, **values))


def of_jobs(tx: Transaction, job_ids: Sequence[str]) -> dict[str, FineTune]:
    """Return what was said of each of these jobs; of one submitted natively, nothing."""
    rows = tx.connection.execute(select(fine_tunes).where(fine_tunes.c.job_id.in_(job_ids)))
    return {row.job_id: FineTune(**row._mapping) for row in rows}


def tracking_of(tx: Transaction, job_id: str) -> dict[str, str]:
    """Return where a job's figures are to be kept, as variables of Weights & Biases."""
    said = of_jobs(tx, [job_id]).get(job_id)
    variables = {}
    for one in (said and said.integrations) or []:
        given = one["wandb"]
        variables = {f"WANDB_{name.upper()}": given.get(name) for name in _WANDB}
        variables["WANDB_TAGS"] = ",".join(given.get("tags", ()))
    return {name: value for name, value in variables.items() if value}


def page(
    tx: Transaction,
    *,
    project: str,
    after: str | None,
    limit: int,
    metadata: Mapping[str, str] | None,
    has_no_metadata: bool = False,
) -> list[Job]:
    """Return up to `limit` jobs, newest first, older than the job `after`.

    Args:
        tx: the transaction.
        project: whose jobs.
        after: a job's id.
        limit: how many.
        metadata: pairs that a job has to have; None takes any.
        has_no_metadata: only jobs without any.
    """
    statement = select(jobs).where(jobs.c.project == project)
    if metadata or has_no_metadata:
        statement = statement.outerjoin(fine_tunes, fine_tunes.c.job_id == jobs.c.id)
    if metadata:
        statement = statement.where(fine_tunes.c.metadata.contains(dict(metadata)))
    if has_no_metadata:
        statement = statement.where(fine_tunes.c.metadata.is_(None))
    if after is not None:
        statement = statement.where(jobs.c.id < after)
    rows = tx.connection.execute(statement.order_by(jobs.c.id.desc()).limit(limit))
    return [job_of(row) for row in rows]


def with_models(tx: Transaction, *, project: str) -> list[Job]:
    """Return the jobs whose model is there, newest first."""
    has_files = select(artifacts.c.job_id).where(artifacts.c.job_id == jobs.c.id).exists()
    rows = tx.connection.execute(
        select(jobs)
        .where(jobs.c.project == project, has_files)
        .order_by(jobs.c.id.desc())
        .limit(_MAX_MODELS)
    )
    return [job_of(row) for row in rows]
