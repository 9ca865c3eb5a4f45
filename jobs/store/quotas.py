"""What projects use, and what they may.

Quotas are checked where something is added: a job, an upload. How many jobs run is looked at when
one is claimed, see `turns.py`. What a quota forbids is refused; what is there is left alone.
"""

from datetime import UTC, datetime, timedelta

from sqlalchemy import Date, Float, cast, extract, func, literal, select
from sqlalchemy.dialects.postgresql import insert

from jobs.access_records import Project, Use
from jobs.records import Job
from jobs.states import LEASED, State
from jobs.tables import artifacts, attempts, checkpoints, datasets, files, jobs, projects, usage
from jobs.transaction import Transaction
from trainer_core.errors import QuotaExceeded

_QUEUE_SECONDS = 30  # when to look again whether the queue has become shorter
_STORAGE_SECONDS = 3600  # it does not become less by itself
_HOUR = 3600


def use_of(tx: Transaction, project: str) -> Use:
    """Return what a project uses."""
    return Use(
        queued_jobs=_num_queued(tx, project),
        running_jobs=tx.connection.execute(
            select(func.count()).where(jobs.c.project == project, jobs.c.state.in_(LEASED))
        ).scalar_one(),
        device_hours=_device_seconds(tx, project) / _HOUR,
        storage_bytes=_stored_bytes(tx, project),
    )


def check_job(tx: Transaction, project: str) -> None:
    """Raise QuotaExceeded if a project may have no further job in the queue.

    A project with a quota has its row locked until the commit: of two submissions at once the
    second counts the first.
    """
    limits = _limits(tx, project)
    if limits is None:
        return
    if limits.max_queued_jobs is not None:
        tx.connection.execute(
            select(projects.c.name)
            .where(projects.c.name == project)
            .with_for_update(key_share=True)
        )
    _check_job(tx, limits)


def foresee_job(tx: Transaction, project: str) -> None:
    """Raise QuotaExceeded if a further job would be refused now; holds up no submission."""
    limits = _limits(tx, project)
    if limits is not None:
        _check_job(tx, limits)


def check_storage(tx: Transaction, project: str, *, num_bytes: int) -> None:
    """Raise QuotaExceeded if a project may not store so many bytes more."""
    limits = _limits(tx, project)
    if limits is not None:
        _check_storage(tx, limits, num_bytes=num_bytes)


def charge(tx: Transaction, job: Job) -> None:
    """Write down the device time of the attempt that ends now, to the month in which it ends.

    Each GPU counts, and a CPU as one.
    """
    seconds = cast(extract("epoch", func.clock_timestamp() - attempts.c.started_at), Float)
    spent = tx.connection.execute(
        select(seconds).where(attempts.c.job_id == job.id, attempts.c.number == job.attempt)
    ).scalar_one()
    statement = insert(usage).values(
        project=job.project, month=_this_month(), device_seconds=spent * max(1, job.num_gpus)
    )
    tx.connection.execute(
        statement.on_conflict_do_update(
            index_elements=[usage.c.project, usage.c.month],
            set_={"device_seconds": usage.c.device_seconds + statement.excluded.device_seconds},
        )
    )


def _limits(tx: Transaction, project: str) -> Project | None:
    """Return the project, where it is known to have any quota."""
    row = tx.connection.execute(select(projects).where(projects.c.name == project)).one_or_none()
    return None if row is None else Project(**row._mapping)


def _check_job(tx: Transaction, limits: Project) -> None:
    project = limits.name
    if limits.max_queued_jobs is not None:
        queued = _num_queued(tx, project)
        if queued >= limits.max_queued_jobs:
            raise _exceeded(
                f"{queued} jobs of project '{project}' wait", limits, "max_queued_jobs",
                hint="Wait until some have started, or cancel some.",
                retry_after_seconds=_QUEUE_SECONDS,
            )  # fmt: skip
    if limits.max_device_hours is not None:
        hours = _device_seconds(tx, project) / _HOUR
        if hours >= limits.max_device_hours:
            raise _exceeded(
                f"project '{project}' has used {hours:.1f} device-hours this month",
                limits, "max_device_hours",
                hint="Wait for the next month (UTC), or ask an operator for more.",
                retry_after_seconds=_seconds_to_next_month(),
            )  # fmt: skip
    _check_storage(tx, limits, num_bytes=0)


def _check_storage(tx: Transaction, limits: Project, *, num_bytes: int) -> None:
    if limits.max_storage_bytes is None:
        return
    stored = _stored_bytes(tx, limits.name)
    if stored + num_bytes > limits.max_storage_bytes or stored >= limits.max_storage_bytes:
        more = f", and this would be {num_bytes:,} more" if num_bytes else ""
        raise _exceeded(
            f"project '{limits.name}' stores {stored:,} bytes{more}", limits, "max_storage_bytes",
            hint="Delete data sets and files that no job needs, or ask an operator for more.",
            retry_after_seconds=_STORAGE_SECONDS,
        )  # fmt: skip


def _num_queued(tx: Transaction, project: str) -> int:
    count = select(func.count()).where(jobs.c.project == project, jobs.c.state == State.QUEUED)
    return int(tx.connection.execute(count).scalar_one())


def _device_seconds(tx: Transaction, project: str) -> float:
    """Return what is written down for this month, and what runs at this moment."""
    written = select(usage.c.device_seconds).where(
        usage.c.project == project, usage.c.month == _this_month()
    )
    num = func.greatest(jobs.c.num_gpus, 1)
    elapsed = cast(extract("epoch", func.now() - attempts.c.started_at), Float)
    running = (
        select(func.coalesce(func.sum(num * elapsed), 0.0))
        .join(attempts, (attempts.c.job_id == jobs.c.id) & (attempts.c.number == jobs.c.attempt))
        .where(jobs.c.project == project, jobs.c.state.in_(LEASED))
    )
    total = func.coalesce(written.scalar_subquery(), 0.0) + running.scalar_subquery()
    return float(tx.connection.execute(select(total)).scalar_one())


def _stored_bytes(tx: Transaction, project: str) -> int:
    of_datasets = select(func.coalesce(func.sum(datasets.c.size_bytes), 0)).where(
        datasets.c.project == project
    )
    of_models = (
        select(func.coalesce(func.sum(artifacts.c.size_bytes), 0))
        .join(jobs, jobs.c.id == artifacts.c.job_id)
        .where(jobs.c.project == project)
    )
    of_checkpoints = (
        select(func.coalesce(func.sum(checkpoints.c.size_bytes), 0))
        .join(jobs, jobs.c.id == checkpoints.c.job_id)
        .where(jobs.c.project == project)
    )
    of_files = select(func.coalesce(func.sum(files.c.size_bytes), 0)).where(
        files.c.project == project,
        files.c.key.is_not(None),  # the others are data sets, or figures
    )
    parts = (of_datasets, of_files, of_models, of_checkpoints)
    total = sum((part.scalar_subquery() for part in parts), literal(0))
    return int(tx.connection.execute(select(total)).scalar_one())


def _this_month() -> object:
    return cast(func.date_trunc("month", func.timezone("UTC", func.now())), Date)


def _seconds_to_next_month() -> int:
    now = datetime.now(UTC)
    first = (now.replace(day=1) + timedelta(days=32)).replace(
        day=1, hour=0, minute=0, second=0, microsecond=0
    )
    return int((first - now).total_seconds()) + 1


def _exceeded(
    what: str, limits: Project, quota: str, *, hint: str, retry_after_seconds: int
) -> QuotaExceeded:
    limit = getattr(limits, quota)
    return QuotaExceeded(
        f"{what}; its quota is {limit:,}.",
        hint=hint,
        retry_after_seconds=retry_after_seconds,
        detail={"quota": quota, "limit": limit},
    )
