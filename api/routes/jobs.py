"""Submitting, listing, reading, cancelling, pausing and resuming jobs."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import StrictBool, ValidationError

from api import openapi, problems
from api.access import Caller, Reader, Submitter
from api.bodies import JsonBody, OptionalJsonBody
from api.dependencies import JobId, PageParameters, Service
from api.reading import RowReaders
from api.schemas import Job, JobDetail, JobPage
from jobs import submission
from jobs.backends import Backends
from jobs.records import Job as StoredJob
from jobs.states import State
from jobs.store import artifacts, attempts, audit, estimates, jobs
from jobs.transaction import Transaction
from trainer_core.errors import FieldProblem, InvalidSpec
from trainer_core.spec import TASKS, JobSpec, parse_spec
from trainer_core.spec.base import SpecModel
from trainer_core.spec.parsing import field_problems

router = APIRouter(tags=["jobs"])


class JobParameters(PageParameters):
    """Which jobs to list."""

    state: Annotated[State | None, Query(description="Only jobs in this state.")] = None
    task: Annotated[str | None, Query(description="Only jobs of this task.")] = None
    label: Annotated[
        list[str],
        Query(description="Only jobs with this label, `key=value`; repeatable.", max_length=16),
    ] = []  # noqa: RUF012 - pydantic copies it


@router.post(
    "/jobs",
    status_code=201,
    responses=problems.responses(400, 413, 415, 422, 503),
    openapi_extra=openapi.spec_body(),
)
async def create_job(
    caller: Submitter, service: Service, readers: RowReaders, body: JsonBody, response: Response
) -> Job:
    """Submit a job: its spec is the body.

    Everything that can be told beforehand is checked: every field, what the spec refers to, and
    every row that it would train on. Then the job is queued.
    """
    spec = await run_in_threadpool(parse_spec, body)
    await readers.run(partial(submission.check, service, spec, project=caller.project))
    job = await run_in_threadpool(_create, service, spec, caller)
    response.headers["Location"] = f"/jobs/{job.id}"
    return job


@router.get("/jobs", responses=problems.responses(422))
def list_jobs(
    caller: Reader, service: Service, parameters: Annotated[JobParameters, Query()]
) -> JobPage:
    """List jobs, newest first."""
    wanted = jobs.Filter(
        project=caller.project,
        state=parameters.state,
        task=_known_task(parameters.task),
        labels=_labels(parameters.label),
    )
    limit = parameters.limit
    with service.database.transaction() as tx:
        found = jobs.page(tx, wanted, after=parameters.after, limit=limit + 1)
        places = estimates.places(tx, found[:limit])
    return JobPage(
        data=[Job.of(job, place=places[job.id]) for job in found[:limit]],
        has_more=len(found) > limit,
    )


@router.get("/jobs/{job_id}", responses=problems.responses(404))
def get_job(caller: Reader, service: Service, job_id: JobId) -> JobDetail:
    """Return a job with its attempts and the files of its model."""
    with service.database.transaction() as tx:
        job = jobs.get(tx, job_id, project=caller.project)
        return JobDetail.whole(
            job,
            place=estimates.places(tx, [job])[job.id],
            attempts=attempts.of_job(tx, job_id),
            artifacts=artifacts.of_job(tx, job_id),
        )


class Cancellation(SpecModel):
    """How to cancel a job."""

    keep: StrictBool = False
    """Let a running job end after the step in hand, measure what it has and store its model."""


@router.post(
    "/jobs/{job_id}/cancel",
    responses=problems.responses(400, 404, 409, 413, 415, 422),
    openapi_extra=openapi.body(
        {
            "schema": Cancellation.model_json_schema(),
            "examples": {"keep the model": {"value": {"keep": True}}},
        },
        is_required=False,
    ),
)
def cancel_job(caller: Submitter, service: Service, job_id: JobId, body: OptionalJsonBody) -> Job:
    """Cancel a job. A running one is first `cancelling`, until its worker has stopped it.

    With `{"keep": true}` it stops after the step in hand, measures what it has learnt by then and
    stores the model. If no step was taken, there is none. Cancelled again without `keep`, it ends
    at once. A job that waits after some steps has no worker to make a model of them: 409.
    """
    keep = _cancellation(body).keep
    with service.database.transaction() as tx:
        job = jobs.cancel(tx, job_id, project=caller.project, keep=keep)
        audit.note(tx, caller=caller, action="job.cancel", target=job_id, keep=keep)
        return _shown(tx, job)


@router.post("/jobs/{job_id}/pause", responses=problems.responses(404, 409))
def pause_job(caller: Submitter, service: Service, job_id: JobId) -> Job:
    """Pause a job. A running one is first `pausing`, until its worker has saved and let it go.

    It gives its device free and keeps its checkpoint. A queued one is `paused` at once. Pausing a
    paused job changes nothing; one that trains no more may end as if it had not been asked.
    """
    with service.database.transaction() as tx:
        job = jobs.pause(tx, job_id, project=caller.project)
        audit.note(tx, caller=caller, action="job.pause", target=job_id)
        return _shown(tx, job)


@router.post("/jobs/{job_id}/resume", responses=problems.responses(404, 409))
def resume_job(caller: Submitter, service: Service, job_id: JobId) -> Job:
    """Queue a paused job again, last of its priority; it goes on at the step that it had come to.

    Resuming a queued or running job changes nothing. One that is still `pausing` can't be: 409.
    """
    with service.database.transaction() as tx:
        job = jobs.resume(tx, job_id, project=caller.project)
        audit.note(tx, caller=caller, action="job.resume", target=job_id)
        return _shown(tx, job)


def _create(service: Backends, spec: JobSpec, caller: Caller) -> Job:
    with service.database.transaction() as tx:
        max_attempts = service.settings.max_attempts
        job = jobs.create(tx, spec, project=caller.project, max_attempts=max_attempts)
        audit.note(tx, caller=caller, action="job.create", target=job.id)
        return _shown(tx, job)


def _cancellation(values: object) -> Cancellation:
    if not isinstance(values, dict):
        raise InvalidSpec([FieldProblem("", "the body is no JSON object", 'Send {"keep": true}.')])
    try:
        return Cancellation.model_validate(values)
    except ValidationError as error:
        raise InvalidSpec(field_problems(error, values, Cancellation)) from error


def _shown(tx: Transaction, job: StoredJob) -> Job:
    return Job.of(job, place=estimates.places(tx, [job])[job.id])


def _known_task(task: str | None) -> str | None:
    if task is not None and task not in TASKS:
        raise InvalidSpec(
            [FieldProblem("/task", f"there is no task '{task[:80]}'", _known_tasks())]
        )
    return task


def _known_tasks() -> str:
    return f"Known tasks: {', '.join(TASKS)}."


def _labels(pairs: list[str]) -> dict[str, str]:
    labels = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not key or not separator:
            problem = FieldProblem("/label", f"'{pair[:80]}' is no label", "Write key=value.")
            raise InvalidSpec([problem])
        labels[key] = value
    return labels
