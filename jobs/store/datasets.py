"""Uploads."""

from typing import Any

from sqlalchemy import delete, func, insert, select

from jobs.identifiers import sibling
from jobs.records import Dataset
from jobs.states import FINAL
from jobs.store import quotas
from jobs.tables import datasets, files, jobs
from jobs.transaction import Transaction
from trainer_core.errors import DatasetInUse, DatasetNotFound


def create(tx: Transaction, values: dict[str, Any]) -> Dataset:
    """Keep a new data set, a file too; `values` are its columns, its project among them.

    Raises:
        QuotaExceeded: its project may not store as much.
    """
    quotas.check_storage(tx, values["project"], num_bytes=values["size_bytes"])
    row = tx.connection.execute(insert(datasets).values(**values).returning(datasets)).one()
    found = Dataset(**row._mapping)
    tx.connection.execute(
        insert(files).values(
            id=sibling(found.id, prefix="file-"),
            project=found.project,
            purpose="fine-tune",
            name=found.name,
            dataset_id=found.id,
            size_bytes=found.size_bytes,
        )
    )
    return found


def get(tx: Transaction, dataset_id: str, *, project: str) -> Dataset:
    """Return a data set, or raise DatasetNotFound."""
    row = tx.connection.execute(
        select(datasets).where(datasets.c.id == dataset_id, datasets.c.project == project)
    ).one_or_none()
    if row is None:
        raise DatasetNotFound(
            f"there is no data set '{dataset_id[:80]}'.",
            hint="GET /datasets lists them; POST /datasets uploads one.",
            param="id",
        )
    return Dataset(**row._mapping)


def page(tx: Transaction, *, project: str, after: str | None, limit: int) -> list[Dataset]:
    """Return up to `limit` data sets, newest first, older than the data set `after`."""
    statement = select(datasets).where(datasets.c.project == project)
    if after is not None:
        statement = statement.where(datasets.c.id < after)
    rows = tx.connection.execute(statement.order_by(datasets.c.id.desc()).limit(limit))
    return [Dataset(**row._mapping) for row in rows]


def hold(tx: Transaction, dataset_ids: list[str]) -> None:
    """Keep data sets from being deleted until the commit, or raise DatasetNotFound."""
    rows = tx.connection.execute(
        select(datasets.c.id)
        .where(datasets.c.id.in_(dataset_ids))
        .order_by(datasets.c.id)
        .with_for_update(read=True)
    )
    for missing in sorted(set(dataset_ids) - set(rows.scalars())):
        raise DatasetNotFound(
            f"data set '{missing}' has just been deleted.", hint="Upload it again.", param="id"
        )


def remove(tx: Transaction, dataset_id: str, *, project: str) -> Dataset:
    """Forget a data set and return it, so that its file can be deleted after the commit.

    Raises:
        DatasetNotFound: no such data set.
        DatasetInUse: a job that has not ended needs it.
    """
    found = get(tx, dataset_id, project=project)
    tx.connection.execute(
        select(datasets.c.id).where(datasets.c.id == dataset_id).with_for_update()
    )  # a job that is being submitted either sees the deletion or is seen by it
    users = tx.connection.execute(
        select(func.min(jobs.c.id), func.count()).where(
            jobs.c.dataset_ids.contains([dataset_id]), jobs.c.state.not_in(FINAL)
        )
    ).one()
    if users[1]:
        raise DatasetInUse(
            f"{users[1]} jobs that have not ended need data set {dataset_id}, first {users[0]}.",
            hint="Cancel them or wait for their end.",
            detail={"job_id": users[0], "num_jobs": users[1]},
        )
    tx.connection.execute(delete(datasets).where(datasets.c.id == dataset_id))
    return found
