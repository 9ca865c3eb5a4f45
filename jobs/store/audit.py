"""The audit log: who did what, written in the transaction that does it."""

from collections.abc import Mapping
from typing import Any, Protocol

from sqlalchemy import bindparam, insert, select

from jobs.access_records import AuditEntry
from jobs.identifiers import new_id
from jobs.store.events import storable
from jobs.tables import audit
from jobs.transaction import Transaction

_WRITTEN = ("id", "project", "key_id", "actor", "action", "target", "detail")
ENTRY = insert(audit).values(
    {name: bindparam(f"noted_{name}", type_=audit.c[name].type) for name in _WRITTEN}
)
"""The statement that writes an entry, with the parameters that `entry` returns."""


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
    values = entry(caller, action, target, project=project, detail=detail)
    tx.connection.execute(ENTRY, values)


def entry(
    caller: Actor,
    action: str,
    target: str,
    *,
    project: str | None = None,
    detail: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the parameters with which `ENTRY` writes down what a caller does."""
    values = {
        "id": new_id("audit"),
        "project": project or caller.project,
        "key_id": caller.key_id,
        "actor": caller.name,
        "action": action,
        "target": target,
        "detail": storable(detail),
    }
    return {f"noted_{name}": value for name, value in values.items()}


def page(tx: Transaction, *, project: str, after: str | None, limit: int) -> list[AuditEntry]:
    """Return up to `limit` entries of a project, newest first, older than the entry `after`."""
    statement = select(audit).where(audit.c.project == project)
    if after is not None:
        statement = statement.where(audit.c.id < after)
    rows = tx.connection.execute(statement.order_by(audit.c.id.desc()).limit(limit))
    return [AuditEntry(**row._mapping) for row in rows]
