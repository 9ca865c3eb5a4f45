"""Jobs as their owners see them: create, get, cancel, pause, resume."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import bindparam, delete, func, insert, select, update

from jobs.identifiers import new_id
from jobs.records import Job, StoredEvent
from jobs.states import FINAL, LEASED, State, sources_of
from jobs.store import audit, datasets, deliveries, events, quotas
from jobs.store.audit import Actor
from jobs.store.customs import Customs, customs_of
from jobs.store.events import NewEvent
from jobs.tables import job_labels, jobs
from jobs.transaction import Transaction
from trainer_core.errors import IllegalTransition, JobNotFound
from trainer_core.events import EventType
from trainer_core.spec import JobSpec, Scheme, parse_model_reference

_CREATED = (
    "id", "project", "sweep_id", "parent_id", "name", "notes", "task", "model", "spec",
    "dataset_ids", "labels", "priority", "num_gpus", "state", "max_attempts", "last_event_id",
)  # fmt: skip
_NEW = (
    insert(jobs)
    .values({name: bindparam(f"new_{name}", type_=jobs.c[name].type) for name in _CREATED})
    .returning(jobs)
    .cte("new")
)
# Made once: to put them together costs more than to run them.
_KEEP = select(_NEW).add_cte(events.first(_NEW, EventType.STATE, data="said").cte("said"))
_KEEP_AND_NOTE = _KEEP.add_cte(audit.ENTRY.cte("noted"))
_GET = select(jobs).where(jobs.c.id == bindparam("wanted"), jobs.c.project == bindparam("whose"))
_GET_LOCKED = _GET.with_for_update()


def create(
    tx: Transaction,
    spec: JobSpec,
    *,
    max_attempts: int,
    project: str,
    parent_id: str | None = None,
    notes: str | None = None,
    sweep_id: str | None = None,
    caller: Actor | None = None,
    customs: Customs | None = None,
    are_held: bool = False,
) -> Job:
    """Keep a new job, queued; its bell is rung after the commit.

    Args:
        tx: the transaction.
        spec: what to train.
        max_attempts: how often it is tried.
        project: whose it is.
        parent_id: the job of the same project that it was made from.
        notes: what its owner says about it.
        sweep_id: the sweep of which it is a trial.
        caller: who is noted in the audit log.
        customs: what there is in its project, where the caller has asked.
        are_held: the caller holds its data sets.

    Raises:
        QuotaExceeded: its project may have no more.
    """
    customs = customs or customs_of(tx, project)
    if customs.has_quotas:
        quotas.check_job(tx, project)
    values = _new_values(spec)
    if not are_held:
        datasets.hold(tx, values["dataset_ids"])
    _hold_base(tx, spec.model)
    values |= {
        "id": new_id("job"),
        "project": project,
        "sweep_id": sweep_id,
        "parent_id": parent_id,
        "notes": notes,
        "max_attempts": max_attempts,
    }
    job = _keep(tx, values, caller=caller)
    if job.labels:
        keep_labels(tx, job)
    if customs.has_webhooks:
        deliveries.announce(tx, job)
    tx.bells.append(job.id)
    return job


def _keep(tx: Transaction, values: dict[str, Any], *, caller: Actor | None) -> Job:
    """Keep job, first event and audit entry in one statement: each costs a round trip."""
    said = {"state": State.QUEUED, "attempt": 0, "reason": "submitted"}
    statement = _KEEP
    given = {f"new_{name}": value for name, value in values.items()} | {"said": said}
    if caller is not None:
        statement = _KEEP_AND_NOTE
        detail = {"parent_id": values["parent_id"]}
        given |= audit.entry(caller, "job.create", values["id"], detail=detail)
    job = job_of(tx.connection.execute(statement, given).one())
    tx.events.append(StoredEvent(job.id, 1, None, job.created_at, EventType.STATE.value, said))
    return job


def _new_values(spec: JobSpec) -> dict[str, Any]:
    """Return the columns of a new job that its spec and its state decide."""
    return {
        "name": spec.name,
        "task": spec.task,
        "model": spec.model,
        "spec": spec.model_dump(mode="json"),
        "dataset_ids": spec.data.dataset_ids(),
        "labels": spec.labels,
        "priority": spec.resources.priority,
        "num_gpus": spec.resources.num_gpus,
        "state": State.QUEUED,
        "last_event_id": 1,
    }


def keep_labels(tx: Transaction, job: Job) -> None:
    """Let a job that is new, or was edited, be found by its labels."""
    tx.connection.execute(delete(job_labels).where(job_labels.c.job_id == job.id))
    if job.labels:
        place = {"project": job.project, "job_id": job.id}
        rows = [{**place, "key": key, "value": value} for key, value in job.labels.items()]
        tx.connection.execute(insert(job_labels), rows)


def _hold_base(tx: Transaction, reference: str) -> None:
    """Keep the job whose model is trained further from being deleted until the commit."""
    model = parse_model_reference(reference)
    if model.scheme is Scheme.JOB:
        held = select(jobs.c.id).where(jobs.c.id == model.name).with_for_update(read=True)
        if tx.connection.execute(held).one_or_none() is None:
            raise _not_found(model.name)


def get(tx: Transaction, job_id: str, *, project: str, is_locked: bool = False) -> Job:
    """Return a job of a project, locked until the commit if asked, or raise JobNotFound."""
    statement = _GET_LOCKED if is_locked else _GET
    row = tx.connection.execute(statement, {"wanted": job_id, "whose": project}).one_or_none()
    return _found(row, job_id)


def get_any(tx: Transaction, job_id: str) -> Job:
    """Return a job of whatever project, for the service itself, or raise JobNotFound."""
    row = tx.connection.execute(select(jobs).where(jobs.c.id == job_id)).one_or_none()
    return _found(row, job_id)


def _found(row: Sequence[Any] | None, job_id: str) -> Job:
    if row is None:
        raise _not_found(job_id)
    return job_of(row)


def _not_found(job_id: str) -> JobNotFound:
    return JobNotFound(
        f"there is no job '{job_id[:80]}'.", hint="GET /jobs lists them.", param="id"
    )


def cancel(
    tx: Transaction,
    job_id: str,
    *,
    project: str,
    keep: bool = False,
    reason: str = "cancelled by request",
) -> Job:
    """End a job that waits, or ask the worker of a running one to end it; again is no error.

    Args:
        tx: the transaction.
        job_id: the job.
        project: of the job.
        keep: let a running job first measure and store the model as it is by then. Asked for
            again without it, it ends at once; never the other way round.
        reason: why, in a few words.

    Raises:
        JobNotFound: no such job.
        IllegalTransition: it has already ended another way, or waits with something to keep.
    """
    job = get(tx, job_id, project=project, is_locked=True)
    is_sooner = job.state is State.CANCELLING and job.keep and not keep
    if job.state in (State.CANCELLING, State.CANCELLED) and not is_sooner:
        return job
    is_held = job.state in LEASED
    target = State.CANCELLING if is_held else State.CANCELLED
    if not is_sooner:
        _check_move(job, target, hint="Only queued, running and paused jobs can be cancelled.")
    if keep and not is_held:
        _check_nothing_to_keep(job)
    if keep:
        reason += ", keeping its model" if is_held else "; no step was taken, so no model is kept"
    return _move(tx, job, target, reason=reason, keep=keep and is_held)


def pause(tx: Transaction, job_id: str, *, project: str) -> Job:
    """Take a job out of the queue, or ask the worker of a running one to save and let it go.

    Again is no error.

    Raises:
        JobNotFound: no such job.
        IllegalTransition: it has ended, or is about to.
    """
    job = get(tx, job_id, project=project, is_locked=True)
    if job.state in (State.PAUSING, State.PAUSED):
        return job
    target = State.PAUSING if job.state in LEASED else State.PAUSED
    _check_move(job, target, hint="Only queued and running jobs can be paused.")
    return _move(tx, job, target, reason="paused by request")


def resume(tx: Transaction, job_id: str, *, project: str) -> Job:
    """Put a paused job at the end of the queue; one that waits or runs already is left as it is.

    Raises:
        JobNotFound: no such job.
        IllegalTransition: it has ended or is about to, or has not let go yet.
        QuotaExceeded: its project may have no more in the queue.
    """
    job = get(tx, job_id, project=project, is_locked=True)
    if job.state in (State.QUEUED, State.RUNNING):
        return job
    if job.state is State.PAUSING:
        raise IllegalTransition(
            f"job {job_id} is still pausing: its worker saves what it has.",
            hint="Resume it once it is paused.",
            detail={"state": job.state},
        )
    _check_move(job, State.QUEUED, hint="Only paused jobs can be resumed.")
    quotas.check_job(tx, project)
    tx.bells.append(job_id)
    return _move(tx, job, State.QUEUED, reason="resumed by request", queued_at=func.now())


def _check_move(job: Job, target: State, *, hint: str) -> None:
    if job.state not in sources_of(target):
        already = "is" if job.state is State.CANCELLING else "has already"
        raise IllegalTransition(
            f"job {job.id} {already} {job.state}.", hint=hint, detail={"state": job.state}
        )


def _check_nothing_to_keep(job: Job) -> None:
    """Refuse to lose the steps of a job that no worker holds, where they are to be kept."""
    step = (job.progress or {}).get("step", 0)
    if step:
        raise IllegalTransition(
            f"job {job.id} is {job.state} after {step} steps, and no worker is there to make a "
            "model of them.",
            hint="Let it run and cancel it then, or cancel it without `keep`.",
            param="keep",
            detail={"state": job.state, "step": step},
        )


def _move(tx: Transaction, job: Job, target: State, *, reason: str, **values: Any) -> Job:
    """Move a job that is locked, by its owner's request."""
    finished = func.now() if target in FINAL else None
    row = tx.connection.execute(
        update(jobs)
        .where(jobs.c.id == job.id)
        .values(state=target, finished_at=finished, updated_at=func.now(), **values)
        .returning(jobs)
    ).one()
    moved = job_of(row)
    say_state(tx, moved, reason=reason)
    return moved


def say_state(
    tx: Transaction, job: Job, *, reason: str, receipt: Mapping[str, Any] | None = None
) -> None:
    """Append the event that a job has moved to the state that it is in, and tell its webhooks.

    Args:
        tx: the transaction.
        job: as it is now.
        reason: why, in a few words.
        receipt: what a worker measured of the end of the process that it was asked to stop.
    """
    data: dict[str, Any] = {"state": job.state, "attempt": job.attempt, "reason": reason}
    if job.error and job.state is State.FAILED:
        data["error"] = job.error
    if receipt is not None:
        data["receipt"] = dict(receipt)
    events.append(tx, job.id, [NewEvent(EventType.STATE, data)])
    deliveries.announce(tx, job)


def job_of(row: Sequence[Any]) -> Job:
    """Return a whole row of the table as a Job, whose fields are in the order of its columns."""
    return Job(*row)
