"""Deliveries: events on their way to webhooks, each try kept.

A delivery is made in the transaction that moved the job, so that no event is lost or told too
early. A sender claims it for the length of a lease; if the sender dies, the next one sends it
again, under the same id.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import RowMapping, delete, func, insert, literal, select, true, tuple_, update

from jobs.records import Delivery, Job, Try, Webhook
from jobs.store import notices
from jobs.store.clock import in_seconds
from jobs.store.notices import Notice
from jobs.tables import deliveries, delivery_tries, webhooks
from jobs.transaction import Transaction
from trainer_core.errors import DeliveryNotFound


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery that a sender is to try now."""

    webhook: Webhook
    event_id: str
    body: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a try."""

    duration_seconds: float
    status_code: int | None = None
    error: str | None = None  # None where it was taken
    answer: str | None = None


def announce(tx: Transaction, job: Job) -> None:
    """Let the webhooks of a job's project be told of the state that the job is in."""
    for notice in notices.of_job(job):
        wanting = select(
            webhooks.c.id,
            literal(notice.event_id),
            literal(notice.event_type.value),
            literal(notice.body),
            func.now(),
        ).where(
            webhooks.c.project == job.project,
            webhooks.c.is_enabled,
            webhooks.c.event_types.contains([notice.event_type.value]),
        )
        columns = ["webhook_id", "event_id", "event_type", "body", "next_try_at"]
        tx.connection.execute(insert(deliveries).from_select(columns, wanting))


def add_claimed(
    tx: Transaction, webhook: Webhook, notice: Notice, *, lease_seconds: float
) -> Claimed:
    """Keep a delivery that its maker sends itself."""
    tx.connection.execute(
        insert(deliveries).values(
            webhook_id=webhook.id,
            event_id=notice.event_id,
            event_type=notice.event_type,
            body=notice.body,
            next_try_at=in_seconds(lease_seconds),
        )
    )
    return Claimed(webhook, notice.event_id, notice.body)


def claim(
    tx: Transaction, *, limit: int, a_webhook: int, busy: Collection[str], lease_seconds: float
) -> list[Claimed]:
    """Return deliveries whose time has come, held for the length of a lease.

    Args:
        tx: the transaction.
        limit: how many at most.
        a_webhook: how many of one webhook at most, so that one that hangs holds up no other.
        busy: webhooks that get nothing now.
        lease_seconds: after how long others may take them.
    """
    due = (
        select(deliveries.c.webhook_id, deliveries.c.event_id, deliveries.c.next_try_at)
        .where(
            deliveries.c.webhook_id == webhooks.c.id,
            deliveries.c.state == "pending",
            deliveries.c.next_try_at <= func.clock_timestamp(),
        )
        .order_by(deliveries.c.next_try_at, deliveries.c.event_id)
        .limit(a_webhook)
        .with_for_update(skip_locked=True)
        .lateral("due")
    )
    chosen = (
        select(due.c.webhook_id, due.c.event_id)
        .select_from(webhooks.join(due, true()))
        .where(webhooks.c.is_enabled, webhooks.c.id.not_in(list(busy)))
        .order_by(due.c.next_try_at)
        .limit(limit)
        .cte("chosen")
    )
    claimed = tx.connection.execute(
        update(deliveries)
        .where(
            deliveries.c.webhook_id == chosen.c.webhook_id,
            deliveries.c.event_id == chosen.c.event_id,
        )
        .values(next_try_at=in_seconds(lease_seconds))
        .returning(deliveries.c.webhook_id, deliveries.c.event_id, deliveries.c.body)
    ).all()
    targets = tx.connection.execute(
        select(webhooks).where(webhooks.c.id.in_({row.webhook_id for row in claimed}))
    )
    by_id = {row.id: Webhook(**row._mapping) for row in targets}
    ordered = sorted(claimed, key=lambda row: str(row.event_id))
    return [Claimed(by_id[row.webhook_id], row.event_id, row.body) for row in ordered]


def record(
    tx: Transaction, claimed: Claimed, outcome: Outcome, *, delays_seconds: Sequence[float]
) -> None:
    """Keep what came of a try, and when the next one is due.

    Args:
        tx: the transaction.
        claimed: what was tried.
        outcome: what came of it.
        delays_seconds: the wait before each try; after the last the delivery has failed.
    """
    key = _key(claimed.webhook.id, claimed.event_id)
    found = tx.connection.execute(
        select(deliveries.c.num_tries, deliveries.c.state).where(*key).with_for_update()
    ).one_or_none()
    if found is None:  # its webhook was deleted meanwhile
        return
    number = found.num_tries + 1
    values: dict[str, Any] = {"num_tries": number}
    if outcome.error is None:
        values |= {"state": "delivered", "next_try_at": None}
    elif found.state == "pending":  # else a second sender, after a lease ran out, was luckier
        is_last = number >= len(delays_seconds)
        values["state"] = "failed" if is_last else "pending"
        values["next_try_at"] = None if is_last else in_seconds(delays_seconds[number])
    tx.connection.execute(update(deliveries).where(*key).values(**values))
    tx.connection.execute(
        insert(delivery_tries).values(
            webhook_id=claimed.webhook.id,
            event_id=claimed.event_id,
            number=number,
            duration_seconds=outcome.duration_seconds,
            status_code=outcome.status_code,
            error=outcome.error,
            answer=outcome.answer,
        )
    )


def get(tx: Transaction, webhook_id: str, event_id: str) -> Delivery:
    """Return a delivery to a webhook, or raise DeliveryNotFound."""
    rows = tx.connection.execute(select(deliveries).where(*_key(webhook_id, event_id))).all()
    if not rows:
        raise _not_found(event_id)
    return _with_tries(tx, [row._mapping for row in rows])[0]


def page(
    tx: Transaction, webhook_id: str, *, state: str | None, after: str | None, limit: int
) -> list[Delivery]:
    """Return up to `limit` deliveries to a webhook, newest first, older than the event `after`."""
    statement = select(deliveries).where(deliveries.c.webhook_id == webhook_id)
    if state is not None:
        statement = statement.where(deliveries.c.state == state)
    if after is not None:
        statement = statement.where(deliveries.c.event_id < after)
    rows = tx.connection.execute(statement.order_by(deliveries.c.event_id.desc()).limit(limit))
    return _with_tries(tx, [row._mapping for row in rows])


def again(tx: Transaction, webhook_id: str, event_id: str) -> Delivery:
    """Let a delivery be tried once more, now, whatever came of it; or raise DeliveryNotFound."""
    changed = tx.connection.execute(
        update(deliveries)
        .where(*_key(webhook_id, event_id))
        .values(state="pending", next_try_at=func.now())
    )
    if not changed.rowcount:
        raise _not_found(event_id)
    return get(tx, webhook_id, event_id)


def forget(tx: Transaction, *, older_than_days: float) -> int:
    """Delete old deliveries with their tries, some at a time, and return how many."""
    old = (
        select(deliveries.c.webhook_id, deliveries.c.event_id)
        .where(deliveries.c.created_at < func.now() - timedelta(days=older_than_days))
        .limit(1000)
    )
    key = tuple_(deliveries.c.webhook_id, deliveries.c.event_id)
    return tx.connection.execute(delete(deliveries).where(key.in_(old))).rowcount


def _with_tries(tx: Transaction, found: Sequence[RowMapping]) -> list[Delivery]:
    key = tuple_(delivery_tries.c.webhook_id, delivery_tries.c.event_id)
    wanted = [(row["webhook_id"], row["event_id"]) for row in found]
    rows = tx.connection.execute(
        select(delivery_tries).where(key.in_(wanted)).order_by(delivery_tries.c.number)
    )
    tries: dict[str, list[Try]] = {}
    for row in rows:
        values = {name: row._mapping[name] for name in Try.__dataclass_fields__}
        tries.setdefault(row.event_id, []).append(Try(**values))
    return [Delivery(**row, tries=tries.get(row["event_id"], [])) for row in found]


def _key(webhook_id: str, event_id: str) -> tuple[Any, ...]:
    return deliveries.c.webhook_id == webhook_id, deliveries.c.event_id == event_id


def _not_found(event_id: str) -> DeliveryNotFound:
    return DeliveryNotFound(
        f"no event '{event_id[:80]}' was sent to this webhook.",
        hint="GET /webhooks/{id}/deliveries lists what was.",
        param="event_id",
    )
