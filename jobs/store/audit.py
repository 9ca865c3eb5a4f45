"""The audit log: who did what, written in the transaction that does it."""

from collections.abc import Mapping
from typing import Any, Protocol

from sqlalchemy import Insert, insert, select

from jobs.access_records import AuditEntry
from jobs.identifiers import new_id
from jobs.store.events import storable
from jobs.tables import audit
from jobs.transaction import Transaction


class Actor(Protocol):
    """Who does something."""

    @property
    def project(self) -> str: ...
    @property
    def key_id(self) -> str | None: ...
    @property
    def name(self) -> str: ...


def note(
    tx: Transaction,
    *,
    caller: Actor,
    action: str,
    target: str,
    project: str | None = None,
    **detail: Any,
) -> None:
    """Write down what a caller does. It is kept if, and only if, the deed is.

    Args:
        tx: the transaction of the deed.
        caller: who does it.
        action: thing and verb, such as `job.cancel`.
        target: id or name of the thing.
        project: whose thing it is, where that is not the caller's.
        detail: what else is worth knowing; no secrets.
    """
    tx.connection.execute(entry(caller, action, target, project=project, detail=detail))


def entry(
    caller: Actor,
    action: str,
    target: str,
    *,
    project: str | None = None,
    detail: Mapping[str, Any],
) -> Insert:
    """Return the statement by which `note` writes down what a caller does."""
    return insert(audit).values(
        id=new_id("audit"),
        project=project or caller.project,
        key_id=caller.key_id,
        actor=caller.name,
        action=action,
        target=target,
        detail=storable(detail),
    )


def page(tx: Transaction, *, project: str, after: str | None, limit: int) -> list[AuditEntry]:
    """Return up to `limit` entries of a project, newest first, older than the entry `after`."""
    statement = select(audit).where(audit.c.project == project)
    if after is not None:
        statement = statement.where(audit.c.id < after)
    rows = tx.connection.execute(statement.order_by(audit.c.id.desc()).limit(limit))
    return [AuditEntry(**row._mapping) for row in rows]
