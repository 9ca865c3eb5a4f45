"""Sweeps and their trials."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, insert, or_, select, update

from jobs.identifiers import new_id
from jobs.records import Json, Sweep, Trial
from jobs.states import SweepState, TrialState
from jobs.tables import sweeps, trials
from jobs.transaction import Transaction
from trainer_core.errors import SweepNotFound


def create(tx: Transaction, *, project: str, name: str | None, plan: Json) -> Sweep:
    """Keep a new sweep; its trials are submitted by the next look at it."""
    row = tx.connection.execute(
        insert(sweeps)
        .values(id=new_id("sweep"), project=project, name=name, plan=plan, state=SweepState.RUNNING)
        .returning(sweeps)
    ).one()
    return Sweep(**row._mapping)


def get(tx: Transaction, sweep_id: str, *, project: str, is_locked: bool = False) -> Sweep:
    """Return a sweep of a project, locked until the commit if asked, or raise SweepNotFound."""
    statement = select(sweeps).where(sweeps.c.id == sweep_id, sweeps.c.project == project)
    row = tx.connection.execute(
        statement.with_for_update() if is_locked else statement
    ).one_or_none()
    if row is None:
        raise SweepNotFound(
            f"there is no sweep '{sweep_id[:80]}'.", hint="GET /sweeps lists them.", param="id"
        )
    return Sweep(**row._mapping)


def page(tx: Transaction, *, project: str, after: str | None, limit: int) -> list[Sweep]:
    """Return up to `limit` sweeps, newest first, older than the sweep `after`."""
    statement = select(sweeps).where(sweeps.c.project == project)
    if after is not None:
        statement = statement.where(sweeps.c.id < after)
    rows = tx.connection.execute(statement.order_by(sweeps.c.id.desc()).limit(limit))
    return [Sweep(**row._mapping) for row in rows]


def unfinished(tx: Transaction) -> list[str]:
    """Return the sweeps that run, or have ended and still have a trial that runs."""
    at_work = select(trials.c.sweep_id).where(trials.c.state == TrialState.RUNNING)
    rows = tx.connection.execute(
        select(sweeps.c.id)
        .where(or_(sweeps.c.state == SweepState.RUNNING, sweeps.c.id.in_(at_work)))
        .order_by(sweeps.c.id)
    )
    return list(rows.scalars())


def take(tx: Transaction, sweep_id: str) -> Sweep | None:
    """Return a sweep, locked until the commit, or None if another process has it."""
    row = tx.connection.execute(
        select(sweeps).where(sweeps.c.id == sweep_id).with_for_update(skip_locked=True)
    ).one_or_none()
    return None if row is None else Sweep(**row._mapping)


def end(tx: Transaction, sweep_id: str, state: SweepState, *, reason: str) -> Sweep:
    """End a sweep that is locked."""
    row = tx.connection.execute(
        update(sweeps)
        .where(sweeps.c.id == sweep_id)
        .values(state=state, reason=reason, finished_at=func.now(), updated_at=func.now())
        .returning(sweeps)
    ).one()
    return Sweep(**row._mapping)


def trials_of(
    tx: Transaction, sweep_id: str, *, after: int = -1, limit: int | None = None
) -> list[Trial]:
    """Return the trials of a sweep by number, above the number `after`."""
    rows = tx.connection.execute(
        select(trials)
        .where(trials.c.sweep_id == sweep_id, trials.c.number > after)
        .order_by(trials.c.number)
        .limit(limit)
    )
    return [Trial(**row._mapping) for row in rows]


def add_trial(
    tx: Transaction,
    sweep_id: str,
    number: int,
    *,
    params: Json,
    job_id: str | None,
    reason: str | None = None,
) -> Trial:
    """Keep a new trial: one that runs, or one that failed before it had a job."""
    has_failed = job_id is None
    row = tx.connection.execute(
        insert(trials)
        .values(
            sweep_id=sweep_id,
            number=number,
            params=params,
            job_id=job_id,
            state=TrialState.FAILED if has_failed else TrialState.RUNNING,
            reason=reason,
            finished_at=func.now() if has_failed else None,
        )
        .returning(trials)
    ).one()
    return Trial(**row._mapping)


def note(tx: Transaction, trial: Trial, values: Mapping[str, Any]) -> Trial:
    """Set columns of a trial, and when it ended if it now has."""
    is_over = values.get("state", TrialState.RUNNING) is not TrialState.RUNNING
    row = tx.connection.execute(
        update(trials)
        .where(trials.c.sweep_id == trial.sweep_id, trials.c.number == trial.number)
        .values(**values, finished_at=func.now() if is_over else None)
        .returning(trials)
    ).one()
    return Trial(**row._mapping)
