"""The checkpoints of jobs in the storage: which there are, which may go.

    storing ──> stored ──> removing ──> no row
       └──────────────────────^

A row is written before the first of its files and deleted after the last, so that no file is ever
without one. Only what is `stored` is seen; all writes of a worker are fenced by its attempt.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Select, and_, delete, exists, func, literal, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from jobs.records import Checkpoint
from jobs.states import FINAL, LEASED
from jobs.store import jobs as jobs_store
from jobs.store.attempts import hold
from jobs.store.events import LeaseLost, storable
from jobs.tables import checkpoints, jobs, pushes
from jobs.transaction import Transaction
from trainer_core.errors import CheckpointNotFound

_MAX_STEP = 2**31 - 1
_BATCH = 100

# A job that is to start from it has not read it yet, or its model is not yet pushed.
_IS_WANTED = or_(
    exists().where(
        jobs.c.model.like("job:%"),
        jobs.c.model
        == func.concat("job:", checkpoints.c.job_id, "/checkpoint-", checkpoints.c.step),
        jobs.c.state.not_in(FINAL),
    ),
    exists().where(
        pushes.c.job_id == checkpoints.c.job_id,
        pushes.c.step == checkpoints.c.step,
        pushes.c.state == "pending",
    ),
)


def begin(
    tx: Transaction,
    job_id: str,
    *,
    attempt: int,
    step: int,
    key: str,
    files: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, float],
    is_best: bool,
) -> None:
    """Note that an attempt is about to store a checkpoint, maybe once more.

    Args:
        tx: the transaction.
        job_id: the job.
        attempt: the attempt, which must hold it.
        step: of the checkpoint.
        key: of its folder in the storage, which no other attempt uses.
        files: `path`, `size_bytes` and `sha256` of each; the manifest is the last one.
        metrics: of the evaluation after the step, if there was one.
        is_best: whether no checkpoint before it was better.

    Raises:
        LeaseLost: the attempt no longer holds the job.
    """
    hold(tx, job_id, attempt=attempt)
    values = {
        "state": "storing",
        "key": key,
        "files": [dict(file) for file in files],
        "size_bytes": sum(file["size_bytes"] for file in files),
        "metrics": storable(dict(metrics)),
        "is_best": is_best,
    }
    statement = insert(checkpoints).values(job_id=job_id, step=step, attempt=attempt, **values)
    tx.connection.execute(
        statement.on_conflict_do_update(
            index_elements=["job_id", "step", "attempt"],
            set_={**values, "created_at": func.now()},
        )
    )


def complete(tx: Transaction, job_id: str, *, attempt: int, step: int, keep: int) -> None:
    """Let a checkpoint be seen, all files of which are stored, and let older ones go.

    The newest `keep` stay, and the best one. What earlier attempts had stored of later steps goes
    too: this attempt did not go on from there, so it was of no use.

    Raises:
        LeaseLost: the attempt no longer holds the job.
    """
    hold(tx, job_id, attempt=attempt)
    table = checkpoints.c
    ours = and_(table.job_id == job_id, table.step == step, table.attempt == attempt)
    done = tx.connection.execute(
        update(checkpoints)
        .where(ours, table.state == "storing")
        .values(state="stored")
        .returning(table.step)
    ).one_or_none()
    if done is None:
        raise LeaseLost(f"checkpoint-{step} of {job_id} was removed while it was stored")
    is_overtaken = and_(table.step >= step, table.attempt < attempt)
    _let_go(tx, table.job_id == job_id, is_overtaken)
    stored = of_any(tx, job_id)
    best = next((one.step for one in stored if one.is_best), None)
    old = [one.step for one in stored[keep:] if one.step != best]
    _let_go(tx, table.job_id == job_id, table.step.in_(old))


def retire(tx: Transaction, checkpoint: Checkpoint, *, attempt: int) -> None:
    """Let a checkpoint go that an attempt has found damaged, whoever still needs it.

    Raises:
        LeaseLost: the attempt no longer holds the job.
    """
    hold(tx, checkpoint.job_id, attempt=attempt)
    is_it = and_(_is(checkpoint), checkpoints.c.state == "stored")
    tx.connection.execute(update(checkpoints).where(is_it).values(state="removing"))


def of_job(tx: Transaction, job_id: str, *, project: str) -> list[Checkpoint]:
    """Return the stored checkpoints of a job of a project, the latest step first.

    Raises:
        JobNotFound: no such job.
    """
    jobs_store.get(tx, job_id, project=project)
    return of_any(tx, job_id)


def of_any(tx: Transaction, job_id: str) -> list[Checkpoint]:
    """Return the stored checkpoints of a job of whatever project, the latest step first."""
    return _all(tx, _stored(job_id))


def get(tx: Transaction, job_id: str, step: int, *, project: str) -> Checkpoint:
    """Return a stored checkpoint of a job of a project.

    Raises:
        JobNotFound: no such job.
        CheckpointNotFound: it is not stored, or no longer.
    """
    jobs_store.get(tx, job_id, project=project)
    return get_any(tx, job_id, step)


def get_any(tx: Transaction, job_id: str, step: int) -> Checkpoint:
    """Return a stored checkpoint of a job of whatever project, or raise CheckpointNotFound."""
    found = _all(tx, _stored(job_id).where(checkpoints.c.step == min(step, _MAX_STEP)))
    if not found or step > _MAX_STEP:
        raise CheckpointNotFound(
            f"job {job_id} has no stored checkpoint of step {step}.",
            hint=f"GET /jobs/{job_id}/checkpoints lists them.",
            detail={"step": step},
        )
    return found[0]


def expire(tx: Transaction, *, kept_for: timedelta) -> None:
    """Let the checkpoints go of jobs that ended so long ago."""
    has_ended = and_(
        jobs.c.id == checkpoints.c.job_id,
        jobs.c.finished_at < func.now() - literal(kept_for),
    )
    _let_go(tx, exists().where(has_ended))


def removable(tx: Transaction, *, job_id: str | None = None) -> list[Checkpoint]:
    """Return checkpoints whose files may be deleted: those let go, and those never finished.

    Args:
        tx: the transaction.
        job_id: only of this job.
    """
    is_storing = exists().where(
        jobs.c.id == checkpoints.c.job_id,
        jobs.c.attempt == checkpoints.c.attempt,
        jobs.c.state.in_(LEASED),
    )
    state = checkpoints.c.state
    statement = (
        select(checkpoints)
        .where(
            state != "stored",
            or_(state == "removing", and_(state == "storing", ~is_storing)),
        )
        .limit(_BATCH)
    )
    if job_id is not None:
        statement = statement.where(checkpoints.c.job_id == job_id)
    return _all(tx, statement)


def forget(tx: Transaction, checkpoint: Checkpoint) -> None:
    """Delete the row of a checkpoint whose files are deleted."""
    tx.connection.execute(
        delete(checkpoints).where(_is(checkpoint), checkpoints.c.state != "stored")
    )


def _let_go(tx: Transaction, *conditions: Any) -> None:
    """Have stored checkpoints removed, but for those that somebody still needs."""
    tx.connection.execute(
        update(checkpoints)
        .where(checkpoints.c.state == "stored", ~_IS_WANTED, *conditions)
        .values(state="removing")
    )


def _is(checkpoint: Checkpoint) -> Any:
    return and_(
        checkpoints.c.job_id == checkpoint.job_id,
        checkpoints.c.step == checkpoint.step,
        checkpoints.c.attempt == checkpoint.attempt,
    )


def _stored(job_id: str) -> Select[Any]:
    return (
        select(checkpoints)
        .where(checkpoints.c.job_id == job_id, checkpoints.c.state == "stored")
        .order_by(checkpoints.c.step.desc(), checkpoints.c.attempt.desc())
    )


def _all(tx: Transaction, statement: Select[Any]) -> list[Checkpoint]:
    return [Checkpoint(**row._mapping) for row in tx.connection.execute(statement)]
