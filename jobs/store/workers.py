"""The workers that were heard of lately, and what they train on."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert

from jobs.records import Worker, WorkerDevice
from jobs.tables import workers
from jobs.transaction import Transaction

BEAT_SECONDS = 15  # how often a worker says that it is there
_SILENT = timedelta(seconds=4 * BEAT_SECONDS)  # a worker that was not heard of for so long is gone
_FORGOTTEN = timedelta(hours=1)


def beat(tx: Transaction, name: str, *, num_slots: int, devices: Sequence[WorkerDevice]) -> None:
    """Say that a worker is there; by the way, forget those that have long been gone."""
    values = {"num_slots": num_slots, "devices": [asdict(device) for device in devices]}
    tx.connection.execute(
        insert(workers)
        .values(name=name, **values)
        .on_conflict_do_update(index_elements=["name"], set_={**values, "seen_at": func.now()})
    )
    tx.connection.execute(delete(workers).where(workers.c.seen_at < func.now() - _FORGOTTEN))


def leave(tx: Transaction, name: str) -> None:
    """Say that a worker has ended."""
    tx.connection.execute(delete(workers).where(workers.c.name == name))


def present(tx: Transaction, *, after: str | None = None, limit: int | None = None) -> list[Worker]:
    """Return the workers that are there, by name, after the worker `after`."""
    statement = select(workers).where(workers.c.seen_at > func.now() - _SILENT)
    if after is not None:
        statement = statement.where(workers.c.name > after)
    rows = tx.connection.execute(statement.order_by(workers.c.name).limit(limit))
    return [
        Worker(
            **{
                **row._mapping,
                "devices": tuple(WorkerDevice(**device) for device in row.devices),
            }
        )
        for row in rows
    ]
