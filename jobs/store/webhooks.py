"""Webhooks: where projects want to be told of their jobs."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, insert, literal, select, update

from jobs.identifiers import new_id
from jobs.records import Webhook
from jobs.tables import webhooks
from jobs.transaction import Transaction
from trainer_core.errors import TooManyWebhooks, WebhookNotFound

MAX_PER_PROJECT = 100  # each event of a job is a row for each of them


def create(tx: Transaction, *, project: str, values: Mapping[str, Any]) -> Webhook:
    """Keep a new webhook; `values` are its columns, its secret sealed.

    Raises:
        TooManyWebhooks: the project has as many as it may.
    """
    counted = select(func.count()).where(webhooks.c.project == project)
    if tx.connection.execute(counted).scalar_one() >= MAX_PER_PROJECT:
        raise TooManyWebhooks(
            f"there already are {MAX_PER_PROJECT} webhooks.", hint="Delete one that is not needed."
        )
    row = tx.connection.execute(
        insert(webhooks)
        .values(id=new_id("wh"), project=project, is_enabled=True)
        .values(**values)
        .returning(webhooks)
    ).one()
    return Webhook(**row._mapping)


def get(tx: Transaction, webhook_id: str, *, project: str) -> Webhook:
    """Return a webhook, or raise WebhookNotFound."""
    row = tx.connection.execute(select(webhooks).where(*_one(webhook_id, project))).one_or_none()
    if row is None:
        raise _not_found(webhook_id)
    return Webhook(**row._mapping)


def page(
    tx: Transaction,
    *,
    project: str,
    after: str | None,
    limit: int,
    only_types: frozenset[str] | None = None,
) -> list[Webhook]:
    """Return up to `limit` webhooks, newest first.

    Args:
        tx: the transaction.
        project: whose.
        after: id of the last one seen.
        limit: how many.
        only_types: leave out those that want events of any other type.
    """
    statement = select(webhooks).where(webhooks.c.project == project)
    if after is not None:
        statement = statement.where(webhooks.c.id < after)
    if only_types is not None:
        statement = statement.where(webhooks.c.event_types.contained_by(sorted(only_types)))
    rows = tx.connection.execute(statement.order_by(webhooks.c.id.desc()).limit(limit))
    return [Webhook(**row._mapping) for row in rows]


def change(tx: Transaction, webhook_id: str, *, project: str, values: Mapping[str, Any]) -> Webhook:
    """Set columns of a webhook; one that is enabled again gets what waited for it.

    Raises:
        WebhookNotFound: no such webhook.
    """
    if "is_enabled" in values:
        values = {**values, "disabled_reason": None}
    row = tx.connection.execute(
        update(webhooks)
        .where(*_one(webhook_id, project))
        .values(updated_at=func.now(), **values)
        .returning(webhooks)
    ).one_or_none()
    if row is None:
        raise _not_found(webhook_id)
    return Webhook(**row._mapping)


def rotate(
    tx: Transaction,
    webhook_id: str,
    *,
    project: str,
    secret: str,
    secret_hint: str,
    overlap: timedelta,
) -> Webhook:
    """Give a webhook a new sealed secret; the old one signs beside it for the overlap.

    Raises:
        WebhookNotFound: no such webhook.
    """
    is_kept = overlap > timedelta()
    values = {
        "secret": secret,
        "secret_hint": secret_hint,
        "old_secret": webhooks.c.secret if is_kept else None,
        "old_secret_until": func.now() + literal(overlap) if is_kept else None,
    }
    return change(tx, webhook_id, project=project, values=values)


def disable(tx: Transaction, webhook_id: str, *, reason: str) -> None:
    """Send nothing more to a webhook, until its owner enables it again."""
    tx.connection.execute(
        update(webhooks)
        .where(webhooks.c.id == webhook_id)
        .values(is_enabled=False, disabled_reason=reason, updated_at=func.now())
    )


def remove(tx: Transaction, webhook_id: str, *, project: str) -> None:
    """Forget a webhook and all that was sent to it, or raise WebhookNotFound."""
    gone = tx.connection.execute(delete(webhooks).where(*_one(webhook_id, project)))
    if not gone.rowcount:
        raise _not_found(webhook_id)


def _one(webhook_id: str, project: str) -> tuple[Any, ...]:
    return webhooks.c.id == webhook_id, webhooks.c.project == project


def _not_found(webhook_id: str) -> WebhookNotFound:
    return WebhookNotFound(
        f"there is no webhook '{webhook_id[:80]}'.", hint="GET /webhooks lists them.", param="id"
    )
