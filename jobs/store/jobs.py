"""Jobs as their owners see them: create, get, list, cancel, place in the queue."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import RowMapping, Select, and_, func, insert, or_, select, update

from jobs.identifiers import new_id
from jobs.records import Job
from jobs.states import FINAL, LEASED, State, sources_of
from jobs.store import datasets, events
from jobs.store.events import NewEvent
from jobs.tables import jobs
from jobs.transaction import Transaction
from trainer_core.errors import IllegalTransition, JobNotFound
from trainer_core.events import EventType
from trainer_core.spec import JobSpec, Scheme, parse_data_reference


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs of a project to list; None takes any."""

    project: str = "default"
    state: State | None = None
    task: str | None = None
    labels: Mapping[str, str] | None = None


def create(tx: Transaction, spec: JobSpec, *, max_attempts: int, project: str = "default") -> Job:
    """Keep a new job, queued; its bell is rung after the commit."""
    references = [parse_data_reference(source) for source in spec.data.references().values()]
    dataset_ids = sorted({r.name for r in references if r.scheme is Scheme.DATASET})
    datasets.hold(tx, dataset_ids)
    row = tx.connection.execute(
        insert(jobs)
        .values(
            id=new_id("job"),
            project=project,
            name=spec.name,
            task=spec.task,
            model=spec.model,
            spec=spec.model_dump(mode="json"),
            dataset_ids=dataset_ids,
            labels=spec.labels,
            priority=spec.resources.priority,
            state=State.QUEUED,
            max_attempts=max_attempts,
        )
        .returning(jobs)
    ).one()
    job = job_of(row._mapping)
    say_state(tx, job, reason="submitted")
    tx.bells.append(job.id)
    return job


def get(tx: Transaction, job_id: str, *, project: str = "default", is_locked: bool = False) -> Job:
    """Return a job of a project, locked until the commit if asked, or raise JobNotFound."""
    statement = select(jobs).where(jobs.c.id == job_id, jobs.c.project == project)
    return _one(tx, statement.with_for_update() if is_locked else statement, job_id)


def get_any(tx: Transaction, job_id: str) -> Job:
    """Return a job of whatever project, for the service itself, or raise JobNotFound."""
    return _one(tx, select(jobs).where(jobs.c.id == job_id), job_id)


def _one(tx: Transaction, statement: Select[Any], job_id: str) -> Job:
    row = tx.connection.execute(statement).one_or_none()
    if row is None:
        raise JobNotFound(
            f"there is no job '{job_id[:80]}'.", hint="GET /jobs lists them.", param="id"
        )
    return job_of(row._mapping)


def page(tx: Transaction, wanted: Filter, *, after: str | None, limit: int) -> list[Job]:
    """Return up to `limit` jobs, newest first, older than the job `after`."""
    statement = select(jobs).where(jobs.c.project == wanted.project)
    if wanted.state is not None:
        statement = statement.where(jobs.c.state == wanted.state)
    if wanted.task is not None:
        statement = statement.where(jobs.c.task == wanted.task)
    if wanted.labels:
        statement = statement.where(jobs.c.labels.contains(dict(wanted.labels)))
    if after is not None:
        statement = statement.where(jobs.c.id < after)
    rows = tx.connection.execute(statement.order_by(jobs.c.id.desc()).limit(limit))
    return [job_of(row._mapping) for row in rows]


def queue_positions(tx: Transaction, found: Sequence[Job]) -> dict[str, int]:
    """Return the place in the queue, from 1, of each of these jobs that is queued."""
    positions = {}
    for job in found:
        if job.state is not State.QUEUED:
            continue
        ahead = or_(
            jobs.c.priority > job.priority,
            and_(
                jobs.c.priority == job.priority,
                or_(
                    jobs.c.queued_at < job.queued_at,
                    and_(jobs.c.queued_at == job.queued_at, jobs.c.id < job.id),
                ),
            ),
        )
        count = select(func.count()).where(jobs.c.state == State.QUEUED, ahead)
        positions[job.id] = tx.connection.execute(count).scalar_one() + 1
    return positions


def cancel(tx: Transaction, job_id: str, *, project: str = "default") -> Job:
    """End a job that waits, or ask the worker of a running one to end it; again is no error.

    Raises:
        JobNotFound: no such job.
        IllegalTransition: it has already ended another way.
    """
    job = get(tx, job_id, project=project, is_locked=True)
    if job.state in (State.CANCELLING, State.CANCELLED):
        return job
    target = State.CANCELLING if job.state in LEASED else State.CANCELLED
    if job.state not in sources_of(target):
        raise IllegalTransition(
            f"job {job_id} has already {job.state}.",
            hint="Only queued, running and paused jobs can be cancelled.",
            detail={"state": job.state},
        )
    finished = func.now() if target in FINAL else None
    row = tx.connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id)
        .values(state=target, finished_at=finished, updated_at=func.now())
        .returning(jobs)
    ).one()
    moved = job_of(row._mapping)
    say_state(tx, moved, reason="cancelled by request")
    return moved


def say_state(tx: Transaction, job: Job, *, reason: str) -> None:
    """Append the event that a job has moved to the state that it is in."""
    data: dict[str, object] = {"state": job.state, "attempt": job.attempt, "reason": reason}
    if job.error and job.state is State.FAILED:
        data["error"] = job.error
    events.append(tx, job.id, [NewEvent(EventType.STATE, data)])


def job_of(values: RowMapping) -> Job:
    """Return a row of the table as a Job."""
    return Job(**{**values, "state": State(values["state"])})
