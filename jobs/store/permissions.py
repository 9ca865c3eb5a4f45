"""Who besides its own project may use the model of a job."""

from collections.abc import Sequence

from sqlalchemy import Select, delete, select
from sqlalchemy.dialects.postgresql import insert

from jobs.identifiers import new_id
from jobs.records import Job, Permission
from jobs.store import jobs
from jobs.tables import checkpoint_permissions
from jobs.transaction import Transaction
from trainer_core.errors import JobNotFound, PermissionNotFound

_OF_CHECKPOINT = checkpoint_permissions.c


def grant(
    tx: Transaction, job_id: str, *, step: int | None, grantees: Sequence[str]
) -> list[Permission]:
    """Let projects use a checkpoint, or with no step the finished model; again is no error."""
    wanted = list(dict.fromkeys(grantees))
    values = [
        {"id": new_id("cp"), "job_id": job_id, "step": step, "grantee": grantee}
        for grantee in wanted
    ]
    tx.connection.execute(insert(checkpoint_permissions).values(values).on_conflict_do_nothing())
    rows = tx.connection.execute(
        _of(job_id, step).where(_OF_CHECKPOINT.grantee.in_(wanted)).order_by(_OF_CHECKPOINT.id)
    )
    return [Permission(**row._mapping) for row in rows]


def page(
    tx: Transaction,
    job_id: str,
    *,
    step: int | None,
    grantee: str | None,
    after: str | None,
    limit: int,
    is_newest_first: bool,
) -> list[Permission]:
    """Return up to `limit` permissions behind the one `after`, in the order asked for."""
    statement = _of(job_id, step)
    if grantee is not None:
        statement = statement.where(_OF_CHECKPOINT.grantee == grantee)
    if after is not None:
        statement = statement.where(
            _OF_CHECKPOINT.id < after if is_newest_first else _OF_CHECKPOINT.id > after
        )
    order = _OF_CHECKPOINT.id.desc() if is_newest_first else _OF_CHECKPOINT.id
    rows = tx.connection.execute(statement.order_by(order).limit(limit))
    return [Permission(**row._mapping) for row in rows]


def revoke(tx: Transaction, permission_id: str, *, job_id: str, step: int | None) -> Permission:
    """Take a permission back and return it, or raise PermissionNotFound."""
    gone = tx.connection.execute(
        delete(checkpoint_permissions)
        .where(
            _OF_CHECKPOINT.id == permission_id,
            _OF_CHECKPOINT.job_id == job_id,
            _OF_CHECKPOINT.step.is_not_distinct_from(step),
        )
        .returning(checkpoint_permissions)
    ).one_or_none()
    if gone is None:
        raise PermissionNotFound(
            f"there is no permission '{permission_id[:80]}' for this checkpoint.",
            param="permission_id",
        )
    return Permission(**gone._mapping)


def source_job(tx: Transaction, job_id: str, *, step: int | None, project: str) -> Job:
    """Return a job whose model a project may use: its own, or one that it was let use.

    Raises:
        JobNotFound: there is none, or it is another project's.
    """
    try:
        return jobs.get(tx, job_id, project=project)
    except JobNotFound:
        granted = _of(job_id, step).where(_OF_CHECKPOINT.grantee == project)
        if tx.connection.execute(granted).one_or_none() is None:
            raise
        return jobs.get_any(tx, job_id)


def _of(job_id: str, step: int | None) -> Select[tuple[object, ...]]:
    return select(checkpoint_permissions).where(
        _OF_CHECKPOINT.job_id == job_id, _OF_CHECKPOINT.step.is_not_distinct_from(step)
    )
