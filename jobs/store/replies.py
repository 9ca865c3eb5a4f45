"""First replies by `Idempotency-Key`: kept for a day, in the transaction of what they tell of."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from jobs.records import Reply
from jobs.tables import replies
from jobs.transaction import Transaction

KEPT = timedelta(hours=24)


def find(tx: Transaction, key: str, *, project: str) -> Reply | None:
    """Return the reply that a key of a project stands for, or None where there is none (any more).

    The fingerprint is for the caller to compare: another request may have had the key.
    """
    row = tx.connection.execute(
        select(replies).where(
            replies.c.project == project, replies.c.key == key, replies.c.created_at > _oldest()
        )
    ).one_or_none()
    return None if row is None else Reply(**row._mapping)


def keep(
    tx: Transaction,
    key: str,
    *,
    project: str,
    fingerprint: str,
    status: int,
    headers: Mapping[str, str],
    body: str,
) -> bool:
    """Keep a reply, and return whether the key was free.

    Where another transaction is about to keep one for this key, this waits for its end. If it was
    not free, the caller rolls back what it made: the other's reply counts.
    """
    values = {
        "fingerprint": fingerprint,
        "status": status,
        "headers": dict(headers),
        "body": body,
        "created_at": func.now(),
    }
    statement = insert(replies).values(project=project, key=key, **values)
    row = tx.connection.execute(
        statement.on_conflict_do_update(
            index_elements=[replies.c.project, replies.c.key],
            set_=values,
            where=replies.c.created_at <= _oldest(),
        ).returning(replies.c.key)
    ).one_or_none()
    return row is not None


def remove_old(tx: Transaction) -> int:
    """Remove the replies that are kept no longer, and return how many."""
    removed = tx.connection.execute(delete(replies).where(replies.c.created_at <= _oldest()))
    return removed.rowcount


def _oldest() -> ColumnElement[Any]:
    return func.now() - KEPT
