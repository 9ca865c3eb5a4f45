"""Events: numbered without a gap within their job, kept, read."""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    CTE,
    Insert,
    Integer,
    Select,
    bindparam,
    func,
    insert,
    literal,
    select,
    update,
)

from jobs.records import StoredEvent
from jobs.states import LEASED
from jobs.tables import events, jobs
from jobs.transaction import Transaction
from trainer_core.events import EventType

_ROWS_AT_A_TIME = 1000
_READ = (
    select(events)
    .where(events.c.job_id == bindparam("wanted"), events.c.id > bindparam("after"))
    .order_by(events.c.id)
    .limit(bindparam("most", type_=Integer))
)


class LeaseLost(Exception):
    """The attempt no longer holds the job; nothing that it says counts."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event without its number."""

    type: str
    data: dict[str, Any]
    at: datetime | None = None  # None for the database's now


def append(
    tx: Transaction, job_id: str, new: Sequence[NewEvent], *, attempt: int | None = None
) -> list[StoredEvent]:
    """Number and keep events; they are published after the commit.

    Args:
        tx: the transaction.
        job_id: the job.
        new: events in order.
        attempt: the attempt that speaks, which must hold the job; None for the service itself.

    Raises:
        LeaseLost: the attempt no longer holds the job.
    """
    if not new:
        return []
    statement = (
        update(jobs)
        .where(jobs.c.id == job_id)
        .values(last_event_id=jobs.c.last_event_id + len(new))
        .returning(jobs.c.last_event_id, func.now())
    )
    if attempt is not None:
        statement = statement.where(jobs.c.attempt == attempt, jobs.c.state.in_(LEASED))
    row = tx.connection.execute(statement).one_or_none()
    if row is None:
        raise LeaseLost(f"attempt {attempt} no longer holds {job_id}")
    last, now = row
    stored = [
        StoredEvent(
            job_id=job_id,
            id=last - len(new) + offset,
            attempt=attempt,
            at=event.at or now,
            type=str(event.type),
            data=storable(event.data),
        )
        for offset, event in enumerate(new, start=1)
    ]
    tx.connection.execute(insert(events), [_values(event) for event in stored])
    tx.events.extend(stored)
    return stored


def first(new: CTE, kind: EventType, *, data: str) -> Insert:
    """Return the statement that keeps the first event of a job, a row that `new` inserts.

    Args:
        new: the statement that inserts the job.
        kind: of the event.
        data: name of the parameter that holds the event's data.
    """
    columns = ["job_id", "id", "type", "data"]
    values = (literal(1), literal(kind.value), bindparam(data, type_=events.c.data.type))
    return insert(events).from_select(columns, select(new.c.id, *values))


def read(tx: Transaction, job_id: str, *, after: int, limit: int) -> list[StoredEvent]:
    """Return the events with a number above `after`, oldest first."""
    rows = tx.connection.execute(_READ, {"wanted": job_id, "after": after, "most": limit})
    return [StoredEvent(**row._mapping) for row in rows]


def read_newest(
    tx: Transaction, job_id: str, *, types: Sequence[str], before: int | None, limit: int
) -> list[StoredEvent]:
    """Return events of some types, newest first, with a number below `before` if it is given."""
    statement = select(events).where(events.c.job_id == job_id, events.c.type.in_(types))
    if before is not None:
        statement = statement.where(events.c.id < before)
    rows = tx.connection.execute(statement.order_by(events.c.id.desc()).limit(limit))
    return [StoredEvent(**row._mapping) for row in rows]


def read_types(
    tx: Transaction, job_id: str, types: Collection[str], *, after: int, limit: int
) -> list[StoredEvent]:
    """Return the events of some types with a number above `after`, oldest first."""
    statement = _of_types(job_id, types).where(events.c.id > after).order_by(events.c.id)
    return [StoredEvent(**row._mapping) for row in tx.connection.execute(statement.limit(limit))]


def read_last(
    tx: Transaction, job_id: str, types: Collection[str], *, up_to: int, limit: int
) -> list[StoredEvent]:
    """Return the last events of some types with a number of up to `up_to`, oldest first."""
    statement = _of_types(job_id, types).where(events.c.id <= up_to).order_by(events.c.id.desc())
    rows = tx.connection.execute(statement.limit(limit)).all()
    return [StoredEvent(**row._mapping) for row in reversed(rows)]


def read_metrics(
    tx: Transaction,
    job_id: str,
    *,
    split: str | None = None,
    after: int = 0,
    limit: int | None = None,
) -> Iterator[StoredEvent]:
    """Yield the measurements of a job after an event, oldest first, few at a time in memory."""
    statement = _of_types(job_id, [EventType.METRICS]).where(events.c.id > after)
    statement = _measurements(statement, split).order_by(events.c.id).limit(limit)
    options = {"yield_per": _ROWS_AT_A_TIME}
    with tx.connection.execute(statement, execution_options=options) as rows:
        for row in rows:
            yield StoredEvent(**row._mapping)


def count_metrics(
    tx: Transaction, job_id: str, *, split: str | None = None, after: int = 0
) -> dict[str, int]:
    """Return how many measurements of each split a job has after an event."""
    of_split = events.c.data["split"].astext
    statement = select(of_split, func.count()).where(
        events.c.job_id == job_id, events.c.type == EventType.METRICS, events.c.id > after
    )
    rows = tx.connection.execute(_measurements(statement, split).group_by(of_split))
    return {row[0]: row[1] for row in rows}


def _measurements(statement: Select[Any], split: str | None) -> Select[Any]:
    return statement if split is None else statement.where(events.c.data["split"].astext == split)


def _of_types(job_id: str, types: Collection[str]) -> Select[Any]:
    return select(events).where(events.c.job_id == job_id, events.c.type.in_(types))


def storable(value: Any) -> Any:
    """Return a value that JSONB holds: no NUL in text, no NaN or infinity among numbers."""
    match value:
        case str():
            return value.replace("\x00", "\ufffd")
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {storable(str(key)): storable(item) for key, item in value.items()}
        case list() | tuple():
            return [storable(item) for item in value]
        case _:
            return value


def _values(event: StoredEvent) -> dict[str, Any]:
    return {name: getattr(event, name) for name in StoredEvent.__dataclass_fields__}
