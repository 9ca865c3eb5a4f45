"""What OpenAI's clients see as files. Those to train on are data sets, in one store with them."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, delete, func, insert, or_, select, update

from jobs.identifiers import new_id, sibling
from jobs.records import File
from jobs.store import datasets, quotas
from jobs.tables import files
from jobs.transaction import Transaction
from trainer_core.errors import DatasetInUse, FileNotFound

TRAINING = "fine-tune"


def id_of(dataset_id: str) -> str:
    """Return the id under which a data set is a file."""
    return sibling(dataset_id, prefix="file-")


def create(tx: Transaction, values: dict[str, Any]) -> File:
    """Keep a file that is no data set; `values` are its columns, its project and key among them.

    Raises:
        QuotaExceeded: its project may not store as much.
    """
    quotas.check_storage(tx, values["project"], num_bytes=values["size_bytes"])
    new = {"id": sibling(new_id("file"), prefix="file-"), **values}
    return _file(tx.connection.execute(insert(files).values(**new).returning(files)).one())


def note(tx: Transaction, file_id: str, *, fault: str | None, expires_seconds: int | None) -> File:
    """Keep what is wrong with the rows of a file, and when it is to go."""
    expires_at = None if expires_seconds is None else func.now() + _interval(expires_seconds)
    row = tx.connection.execute(
        update(files)
        .where(files.c.id == file_id)
        .values(fault=fault, expires_at=expires_at)
        .returning(files)
    ).one()
    return _file(row)


def get(tx: Transaction, file_id: str, *, project: str) -> File:
    """Return a file, or raise FileNotFound."""
    row = tx.connection.execute(_seen(project).where(files.c.id == file_id)).one_or_none()
    if row is None:
        raise FileNotFound(f"there is no file '{file_id[:80]}'.", param="id")
    return _file(row)


def page(
    tx: Transaction,
    *,
    project: str,
    purpose: str | None,
    after: str | None,
    limit: int,
    is_newest_first: bool,
) -> list[File]:
    """Return up to `limit` files behind the file `after`, in the order asked for."""
    statement = _seen(project)
    if purpose is not None:
        statement = statement.where(files.c.purpose == purpose)
    if after is not None:
        statement = statement.where(files.c.id < after if is_newest_first else files.c.id > after)
    order = files.c.id.desc() if is_newest_first else files.c.id
    rows = tx.connection.execute(statement.order_by(order).limit(limit))
    return [_file(row) for row in rows]


def results_of(tx: Transaction, job_ids: Sequence[str]) -> dict[str, str]:
    """Return the id of the file of figures of each of these jobs that has one."""
    rows = tx.connection.execute(
        select(files.c.job_id, files.c.id).where(files.c.job_id.in_(job_ids))
    )
    return {job_id: file_id for job_id, file_id in rows if job_id is not None}


def remove(tx: Transaction, file_id: str, *, project: str) -> str | None:
    """Forget a file; return the key of what can be deleted from the storage after the commit.

    Raises:
        FileNotFound: no such file.
        DatasetInUse: a job that has not ended trains on it.
    """
    found = get(tx, file_id, project=project)
    if found.dataset_id is not None:
        return datasets.remove(tx, found.dataset_id, project=project).key  # the row goes with it
    tx.connection.execute(delete(files).where(files.c.id == file_id))
    return found.key


def remove_expired(tx: Transaction, *, limit: int = 100) -> list[str]:
    """Forget files whose time is over; return the keys to delete after the commit.

    One that a job still trains on stays until the job has ended.
    """
    rows = tx.connection.execute(
        select(files)
        .where(files.c.expires_at < func.now())
        .order_by(files.c.expires_at)
        .limit(limit)
    )
    keys = []
    for file in map(_file, rows.all()):
        if file.dataset_id is None:
            tx.connection.execute(delete(files).where(files.c.id == file.id))
            keys += [file.key] if file.key else []
            continue
        try:
            keys.append(datasets.remove(tx, file.dataset_id, project=file.project).key)
        except DatasetInUse:
            continue
    return keys


def expires_at(seconds: int) -> Any:
    """Return the database's time in so many seconds."""
    return func.now() + _interval(seconds)


def _seen(project: str) -> Select[Any]:
    is_there = or_(files.c.expires_at.is_(None), files.c.expires_at > func.now())
    return select(files).where(files.c.project == project, is_there)


def _interval(seconds: int) -> Any:
    return func.make_interval(0, 0, 0, 0, 0, 0, seconds)


def _file(row: Any) -> File:
    return File(**row._mapping)
