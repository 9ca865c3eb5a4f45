"""What a worker does to a job, each write fenced by its attempt number, and what the sweeper does.

The database's clock rules the leases.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Update, bindparam, func, insert, select, update

from jobs.records import Attempt, Job
from jobs.states import FINAL, LEASED, State, sources_of
from jobs.store import quotas, results, turns
from jobs.store.clock import in_seconds
from jobs.store.events import LeaseLost, storable
from jobs.store.jobs import job_of, say_state
from jobs.tables import attempts, jobs
from jobs.transaction import Transaction
from trainer_core.errors import WorkerLost

_OF_JOB = (
    select(attempts).where(attempts.c.job_id == bindparam("wanted")).order_by(attempts.c.number)
)


@dataclass(frozen=True, slots=True)
class Steps:
    """The optimizer steps between which an attempt has worked."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Held:
    """A job that a worker holds, and what its owner wants of it."""

    state: State
    keep: bool  # whether a job that is cancelling is to leave a model


def claim(tx: Transaction, *, worker: str, lease_seconds: float, num_gpus: int = 0) -> Job | None:
    """Give the queued job whose turn it is to a worker with so many GPUs, or return None.

    A bell only says that there may be work: which job is next is decided here.
    """
    turn = turns.take(tx, num_gpus=num_gpus)
    if turn is None:
        return None
    row = tx.connection.execute(
        update(jobs)
        .where(jobs.c.id == turn, jobs.c.state.in_(sources_of(State.RUNNING)))
        .values(
            state=State.RUNNING,
            attempt=jobs.c.attempt + 1,
            worker=worker,
            lease_until=in_seconds(lease_seconds),
            started_at=func.coalesce(jobs.c.started_at, func.now()),
            updated_at=func.now(),
        )
        .returning(jobs)
    ).one()
    job = job_of(row)
    tx.connection.execute(insert(attempts).values(job_id=job.id, number=job.attempt, worker=worker))
    say_state(tx, job, reason=f"claimed by {worker}")
    return job


def renew(tx: Transaction, job_id: str, *, attempt: int, lease_seconds: float) -> Held:
    """Prolong a lease and return what is asked of the job, by which the worker learns of it.

    Raises:
        LeaseLost: the attempt no longer holds the job.
    """
    row = tx.connection.execute(
        update(jobs)
        .where(*_held(job_id, attempt))
        .values(lease_until=in_seconds(lease_seconds))
        .returning(jobs.c.state, jobs.c.keep)
    ).one_or_none()
    if row is None:
        raise LeaseLost(f"attempt {attempt} no longer holds {job_id}")
    return Held(row.state, keep=row.keep)


def hold(tx: Transaction, job_id: str, *, attempt: int) -> None:
    """Keep a job from being moved until the commit, or raise LeaseLost if it is not held."""
    held = select(jobs.c.id).where(*_held(job_id, attempt)).with_for_update()
    if tx.connection.execute(held).one_or_none() is None:
        raise LeaseLost(f"attempt {attempt} no longer holds {job_id}")


def note(tx: Transaction, job_id: str, *, attempt: int, values: Mapping[str, Any]) -> None:
    """Keep what an attempt has to say of its job: phase, progress, metrics, resolved.

    Raises:
        LeaseLost: the attempt no longer holds the job.
    """
    changed = tx.connection.execute(
        update(jobs)
        .where(*_held(job_id, attempt))
        .values(**{name: storable(value) for name, value in values.items()}, updated_at=func.now())
        .returning(jobs.c.id)
    ).one_or_none()
    if changed is None:
        raise LeaseLost(f"attempt {attempt} no longer holds {job_id}")


def count_batch(
    tx: Transaction, job_id: str, *, attempt: int, number: int, steps: Steps | None
) -> None:
    """Note that an attempt has told a batch of events, and how far it was then.

    So its steps are known of a worker that dies, and a worker that is not told whether a batch was
    kept can ask (`num_batches`).
    """
    worked = {"first_step": steps.first, "last_step": steps.last} if steps else {}
    tx.connection.execute(_update(job_id, attempt).values(num_batches=number, **worked))


def num_batches(tx: Transaction, job_id: str, *, attempt: int) -> int:
    """Return how many batches an attempt has told."""
    return int(
        tx.connection.execute(
            select(attempts.c.num_batches).where(
                attempts.c.job_id == job_id, attempts.c.number == attempt
            )
        ).scalar_one()
    )


def end(
    tx: Transaction,
    job_id: str,
    target: State,
    *,
    attempt: int,
    reason: str,
    values: Mapping[str, Any] | None = None,
    again_in_seconds: float = 0.0,
    receipt: Mapping[str, Any] | None = None,
) -> Job:
    """End an attempt by moving its job on, and let the lease go.

    Args:
        tx: the transaction.
        job_id: the job.
        target: where to: a final state, paused, or queued again.
        attempt: the attempt that ends.
        reason: why, in a few words.
        values: further columns of the job to set, such as `error` or `best`.
        again_in_seconds: how long a job that is queued again has to wait; 0 keeps its old turn.
        receipt: what was measured of the end of the process, where it was asked to stop.

    Raises:
        LeaseLost: the attempt no longer holds the job, or the move is not legal from its state.
    """
    row = tx.connection.execute(
        update(jobs)
        .where(*_held(job_id, attempt), jobs.c.state.in_(sources_of(target)))
        .values(
            state=target,
            phase=None,
            worker=None,
            lease_until=None,
            finished_at=func.now() if target in FINAL else None,
            queued_at=in_seconds(again_in_seconds) if again_in_seconds else jobs.c.queued_at,
            updated_at=func.now(),
            **{name: storable(value) for name, value in (values or {}).items()},
        )
        .returning(jobs)
    ).one_or_none()
    if row is None:
        raise LeaseLost(f"attempt {attempt} of {job_id} may not move it to {target}")
    tx.connection.execute(_update(job_id, attempt).values(finished_at=func.now(), reason=reason))
    job = job_of(row)
    quotas.charge(tx, job)
    say_state(tx, job, reason=reason, receipt=receipt)
    if target in FINAL and job.best is not None:
        results.keep(tx, job)
    if target is State.QUEUED and not again_in_seconds:
        tx.bells.append(job_id)
    return job


def of_job(tx: Transaction, job_id: str) -> list[Attempt]:
    """Return the attempts of a job, first to last."""
    rows = tx.connection.execute(_OF_JOB, {"wanted": job_id})
    return [Attempt(**row._mapping) for row in rows]


def expired(tx: Transaction) -> list[Job]:
    """Return the jobs whose lease has run out, locked; what another sweeper holds is left out."""
    rows = tx.connection.execute(
        select(jobs)
        .where(jobs.c.state.in_(LEASED), jobs.c.lease_until < func.clock_timestamp())
        .with_for_update(skip_locked=True)
    )
    return [job_of(row) for row in rows]


def take_back(tx: Transaction, job: Job) -> Job:
    """Move on a job whose lease has run out: as its owner asked, else queued or failed."""
    lost = WorkerLost(
        f"worker {job.worker} was not heard of for the length of its lease, "
        f"in attempt {job.attempt} of {job.max_attempts}.",
        hint="See the worker's log; submit the job again once it is mended.",
    )
    values: dict[str, Any] = {}
    if job.state is State.CANCELLING:
        target = State.CANCELLED
    elif job.attempt < job.max_attempts:
        target = State.PAUSED if job.state is State.PAUSING else State.QUEUED
    else:
        target, values = State.FAILED, {"error": lost.to_typed().to_dict()}
    reason = "lease lost; no model is kept" if job.keep else "lease lost"
    return end(tx, job.id, target, attempt=job.attempt, reason=reason, values=values)


def unanswered(tx: Transaction, *, older_than_seconds: float) -> list[str]:
    """Return the queued jobs whose bell was rung so long ago that it may be lost, oldest first."""
    rows = tx.connection.execute(
        select(jobs.c.id)
        .where(
            jobs.c.state == State.QUEUED,
            jobs.c.queued_at < func.now() - timedelta(seconds=older_than_seconds),
        )
        .order_by(jobs.c.priority.desc(), jobs.c.queued_at)
        .limit(100)
    )
    return list(rows.scalars())


def _update(job_id: str, attempt: int) -> Update:
    return update(attempts).where(attempts.c.job_id == job_id, attempts.c.number == attempt)


def _held(job_id: str, attempt: int) -> tuple[Any, ...]:
    return jobs.c.id == job_id, jobs.c.attempt == attempt, jobs.c.state.in_(LEASED)
