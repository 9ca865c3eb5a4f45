"""Pages of jobs. Any one filter alone costs what the page costs, however many jobs there are."""

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, select, union_all

from jobs.identifiers import first_id
from jobs.records import Job
from jobs.states import State
from jobs.store.jobs import job_of
from jobs.tables import job_labels, jobs
from jobs.transaction import Transaction

# Ids hold the time by the API's clock, `created_at` by the database's. The first finds where to
# read, the second decides; so the clocks may differ by so much.
_CLOCK_SKEW_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs of a project to list; None and empty take any."""

    project: str
    states: tuple[State, ...] = ()  # any of them
    task: str | None = None
    model: str | None = None  # as the spec writes it
    name: str | None = None
    parent_id: str | None = None
    labels: frozenset[tuple[str, str]] = frozenset()  # all of them: key and value
    created_from: datetime | None = None
    created_before: datetime | None = None


def page(
    tx: Transaction, wanted: Filter, *, after: str | None, limit: int, oldest_first: bool = False
) -> list[Job]:
    """Return up to `limit` jobs that come after the job `after`, newest first by default."""
    statement = query(wanted, after=after, limit=limit, oldest_first=oldest_first)
    return [job_of(row) for row in tx.connection.execute(statement).all()]


@lru_cache(maxsize=256)  # what is polled is put together once
def query(wanted: Filter, *, after: str | None, limit: int, oldest_first: bool) -> Select[Any]:
    """Return the query of a page."""
    key = jobs.c.id.asc() if oldest_first else jobs.c.id.desc()
    statement = _labelled(select(jobs.c.id).where(*_conditions(wanted)), wanted)
    if after is not None:
        statement = statement.where(jobs.c.id > after if oldest_first else jobs.c.id < after)
    # A state at a time: each is an index in order, which several states together are not.
    parts = [
        _first(statement.where(*of_state), key, limit=limit) for of_state in _each_state(wanted)
    ]
    ids = parts[0] if len(parts) == 1 else _first_of_all(parts, limit=limit, is_up=oldest_first)
    return select(jobs).where(jobs.c.id.in_(ids)).order_by(key)


def _each_state(wanted: Filter) -> list[tuple[ColumnElement[bool], ...]]:
    """Return the condition of each state that is wanted, or none at all for any state."""
    return [(jobs.c.state == state,) for state in dict.fromkeys(wanted.states)] or [()]


def _first(statement: Select[Any], key: ColumnElement[Any], *, limit: int) -> Select[Any]:
    return select(statement.order_by(key).limit(limit).subquery().c.id)


def _first_of_all(parts: list[Select[Any]], *, limit: int, is_up: bool) -> Select[Any]:
    ids = union_all(*parts).subquery().c.id
    return select(ids).order_by(ids.asc() if is_up else ids.desc()).limit(limit)


def _labelled(statement: Select[Any], wanted: Filter) -> Select[Any]:
    for key, value in sorted(wanted.labels):
        label = job_labels.alias()
        is_it = (label.c.project == wanted.project, label.c.key == key, label.c.value == value)
        statement = statement.join(label, and_(label.c.job_id == jobs.c.id, *is_it))
    return statement


def _conditions(wanted: Filter) -> list[ColumnElement[bool]]:
    conditions = [jobs.c.project == wanted.project]
    for column, value in (
        (jobs.c.task, wanted.task),
        (jobs.c.model, wanted.model),
        (jobs.c.name, wanted.name),
        (jobs.c.parent_id, wanted.parent_id),
    ):
        if value is not None:
            conditions.append(column == value)
    if wanted.created_from is not None:
        earliest = first_id("job", wanted.created_from.timestamp() - _CLOCK_SKEW_SECONDS)
        conditions += [jobs.c.created_at >= wanted.created_from, jobs.c.id >= earliest]
    if wanted.created_before is not None:
        latest = first_id("job", wanted.created_before.timestamp() + _CLOCK_SKEW_SECONDS)
        conditions += [jobs.c.created_at < wanted.created_before, jobs.c.id < latest]
    return conditions
