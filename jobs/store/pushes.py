"""Pushes: models on their way to the Hub.

A push is a row, made in the transaction that ends the job or that answers a request. A worker
claims it for the length of a lease; if the worker dies, another tries again, which does no harm: a
commit of files that are there already is none. Each later write matches the number of the try.
Those of a job go one after another, so that what was asked for last is what stays.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import bindparam, exists, func, insert, select, update

from jobs.records import Push
from jobs.store import artifacts, events
from jobs.store.clock import in_seconds
from jobs.store.events import LeaseLost, NewEvent, storable
from jobs.tables import pushes
from jobs.transaction import Transaction
from trainer_core.errors import ModelNotReady, PushFailed, PushPending
from trainer_core.events import EventType
from trainer_core.spec.publishing import PushSpec

_OF_JOB = select(pushes).where(pushes.c.job_id == bindparam("wanted")).order_by(pushes.c.number)


def ask(
    tx: Transaction, job_id: str, spec: PushSpec, *, max_tries: int, step: int | None = None
) -> Push:
    """Keep that a model of a job is to be pushed; the caller holds the job's row.

    Args:
        tx: the transaction.
        job_id: whose model.
        spec: where to, with the name of the secret.
        max_tries: after so many tries the push has failed.
        step: of the checkpoint whose model it is, which the caller has found; None for the
            finished one, which has files by now.

    Raises:
        ModelNotReady: the job has no model.
        PushPending: an earlier push of that model is not over.
    """
    if step is None and not artifacts.of_job(tx, job_id):
        raise ModelNotReady(
            f"job {job_id} has no model to push.",
            hint="Wait until it has succeeded; a model that was deleted is gone.",
        )
    before = of_job(tx, job_id)
    pending = next((one for one in before if one.state == "pending" and one.step == step), None)
    if pending is not None:
        raise PushPending(
            f"{pending.checkpoint or 'the model'} of {job_id} is being pushed to {pending.repo}, "
            f"in push {pending.number} of the job.",
            hint=f"Wait until GET /jobs/{job_id} shows its end under `pushes`, then ask again.",
        )
    assert spec.secret is not None, "whoever asks names a secret"
    row = tx.connection.execute(
        insert(pushes)
        .values(
            job_id=job_id,
            number=before[-1].number + 1 if before else 1,
            step=step,
            max_tries=max_tries,
            next_try_at=func.now(),
            **spec.model_dump(),
        )
        .returning(pushes)
    ).one()
    return Push(**row._mapping)


def of_job(tx: Transaction, job_id: str) -> list[Push]:
    """Return the pushes of a job, first to last."""
    rows = tx.connection.execute(_OF_JOB, {"wanted": job_id})
    return [Push(**row._mapping) for row in rows]


def claim(tx: Transaction, *, lease_seconds: float) -> Push | None:
    """Return a push whose time has come, held for the length of a lease, or None."""
    earlier = pushes.alias("earlier")
    has_to_wait = exists().where(
        earlier.c.job_id == pushes.c.job_id,
        earlier.c.number < pushes.c.number,
        earlier.c.state == "pending",
    )
    is_due = pushes.c.next_try_at <= func.clock_timestamp()
    due = (
        select(pushes.c.job_id, pushes.c.number)
        .where(pushes.c.state == "pending", is_due, ~has_to_wait)
        .order_by(pushes.c.next_try_at)
        .limit(1)
        .with_for_update(skip_locked=True, of=pushes)
        .cte("due")
    )
    row = tx.connection.execute(
        update(pushes)
        .where(pushes.c.job_id == due.c.job_id, pushes.c.number == due.c.number)
        .values(num_tries=pushes.c.num_tries + 1, next_try_at=in_seconds(lease_seconds))
        .returning(pushes)
    ).one_or_none()
    return None if row is None else Push(**row._mapping)


def renew(tx: Transaction, push: Push, *, lease_seconds: float) -> None:
    """Prolong the lease of a try, or raise LeaseLost if it is no longer held."""
    _change(tx, push, next_try_at=in_seconds(lease_seconds))


def hand_back(tx: Transaction, push: Push) -> None:
    """Let others try at once: this worker leaves, and its try does not count."""
    _change(tx, push, next_try_at=func.now(), max_tries=push.max_tries + 1)


def put_off(
    tx: Transaction, push: Push, *, error: Mapping[str, Any], again_in_seconds: float
) -> None:
    """Keep why a try failed, and when the next one is due."""
    _change(tx, push, error=storable(dict(error)), next_try_at=in_seconds(again_in_seconds))


def succeed(tx: Transaction, push: Push, *, commit: str, url: str) -> None:
    """Keep that a model was pushed, and tell of it."""
    values = {"commit": commit, "url": url}
    _change(tx, push, state="pushed", error=None, **_END, **values)
    what = {"checkpoint": push.checkpoint, "branch": push.branch, "tag": push.tag}
    data = {"kind": "push", "repo": push.repo, **what, **values}
    events.append(tx, push.job_id, [NewEvent(EventType.ARTIFACT, data)])


def fail(tx: Transaction, push: Push, *, error: Mapping[str, Any]) -> None:
    """Keep that a push was given up, and warn of it; the job is as it was."""
    _change(tx, push, state="failed", error=storable(dict(error)), **_END)
    data = {"code": PushFailed.code, "message": error["message"], "hint": error["hint"]}
    events.append(tx, push.job_id, [NewEvent(EventType.WARNING, data)])


_END = {"next_try_at": None, "finished_at": func.now()}


def _change(tx: Transaction, push: Push, **values: Any) -> None:
    changed = tx.connection.execute(
        update(pushes)
        .where(
            pushes.c.job_id == push.job_id,
            pushes.c.number == push.number,
            pushes.c.num_tries == push.num_tries,
            pushes.c.state == "pending",
        )
        .values(**values)
        .returning(pushes.c.job_id)
    ).one_or_none()
    if changed is None:
        raise LeaseLost(f"try {push.num_tries} of push {push.number} lost {push.job_id}")
