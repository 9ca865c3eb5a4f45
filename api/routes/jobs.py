"""Submitting jobs, cloning and trying them again, cancelling, pausing and resuming them."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import StrictBool, ValidationError

from api import openapi, problems
from api.access import Caller, Submitter
from api.bodies import JsonBody, OptionalJsonBody
from api.dependencies import JobId, Parameters, Service
from api.idempotency import Idempotent, Once
from api.inspections import JobInspector
from api.merging import merged
from api.reading import Readers, RowReaders
from api.reports import Validation
from api.routes.validation import validated
from api.schemas import Job
from api.showing import shown, shown_new
from jobs import submission
from jobs.backends import Backends
from jobs.records import Job as StoredJob
from jobs.sealing import cipher_of
from jobs.states import State
from jobs.store import audit, jobs
from jobs.store.customs import customs_and_datasets
from trainer_core.errors import FieldProblem, IllegalTransition, InvalidSpec
from trainer_core.spec import JobSpec, parse_spec
from trainer_core.spec.base import SpecModel
from trainer_core.spec.parsing import field_problems

router = APIRouter(tags=["jobs"])

_RETRYABLE = frozenset({State.FAILED, State.CANCELLED})


class CreateParameters(Parameters):
    """What to do with a spec."""

    validate_only: Annotated[
        bool, Query(description="Answer as POST /jobs/validate does, and queue nothing.")
    ] = False


@router.post(
    "/jobs",
    status_code=201,
    responses={
        200: {"model": Validation, "description": "With `validate_only`: what it would do"},
        **problems.responses(400, 409, 413, 415, 422, 503),
    },
    openapi_extra=openapi.spec_body(),
    response_model=Job,
)
async def create_job(
    *,
    caller: Submitter,
    service: Service,
    readers: RowReaders,
    inspector: JobInspector,
    body: JsonBody,
    once: Idempotent,
    parameters: Annotated[CreateParameters, Query()],
) -> Response:
    """Submit a job: its spec is the body.

    Everything that can be told at once is checked: every field, what the spec refers to, every row
    that it would train on, the project's quotas, and whether the state of the weights alone is more
    than any worker has. Then the job is queued. `POST /jobs/validate` also looks at the model, at
    tokens and at estimates; what it alone finds is an error of the running job here.
    """
    if parameters.validate_only:
        found = await validated(service, inspector, body, caller=caller, is_submission=True)
        return JSONResponse(found.model_dump(mode="json"))
    return await _submit(service, readers, caller, body, once)


@router.post(
    "/jobs/{job_id}/clone",
    status_code=201,
    response_model=Job,
    responses=problems.responses(400, 404, 409, 413, 415, 422, 503),
    openapi_extra=openapi.body(
        {
            "schema": {"type": "object"},
            "examples": {
                "as it was": {"value": {}},
                "longer": {"value": {"training": {"epochs": 5}, "name": "longer"}},
            },
        },
        is_required=False,
    ),
)
async def clone_job(
    caller: Submitter,
    service: Service,
    readers: RowReaders,
    job_id: JobId,
    body: OptionalJsonBody,
    once: Idempotent,
) -> Response:
    """Submit a job like another one, with changes: a JSON merge patch (RFC 7396) of its spec.

    What the patch does not name stays, with the name, labels and priority that the job has by now;
    null takes a field away, so that it has its default. The new job has this one as `parent_id`.
    """
    if not isinstance(body, dict):
        raise InvalidSpec([FieldProblem("", "a patch of a spec is a JSON object")])
    parent = await run_in_threadpool(_get, service, caller, job_id)
    patched = merged(_spec_of(parent), body)
    return await _submit(service, readers, caller, patched, once, parent_id=parent.id)


@router.post(
    "/jobs/{job_id}/retry",
    status_code=201,
    response_model=Job,
    responses=problems.responses(404, 409, 422, 503),
)
async def retry_job(
    caller: Submitter, service: Service, readers: RowReaders, once: Idempotent, job_id: JobId
) -> Response:
    """Submit a failed or cancelled job again, as a new one with this one as `parent_id`.

    Its spec is the same, with the name, labels and priority that the job has by now. The old job
    keeps its error and its log. A paused job is resumed instead.
    """
    parent = await run_in_threadpool(_get, service, caller, job_id)
    if parent.state not in _RETRYABLE:
        raise IllegalTransition(
            f"job {job_id} is {parent.state}; only failed and cancelled jobs can be tried again.",
            hint=f"POST /jobs/{job_id}/clone submits another like it.",
            detail={"state": parent.state},
        )
    return await _submit(service, readers, caller, _spec_of(parent), once, parent_id=parent.id)


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
        return shown(tx, job)


@router.post("/jobs/{job_id}/pause", responses=problems.responses(404, 409))
def pause_job(caller: Submitter, service: Service, job_id: JobId) -> Job:
    """Pause a job. A running one is first `pausing`, until its worker has saved and let it go.

    It gives its device free and keeps its checkpoint. A queued one is `paused` at once. Pausing a
    paused job changes nothing; one that trains no more may end as if it had not been asked.
    """
    with service.database.transaction() as tx:
        job = jobs.pause(tx, job_id, project=caller.project)
        audit.note(tx, caller=caller, action="job.pause", target=job_id)
        return shown(tx, job)


@router.post("/jobs/{job_id}/resume", responses=problems.responses(404, 409))
def resume_job(caller: Submitter, service: Service, job_id: JobId) -> Job:
    """Queue a paused job again, last of its priority; it goes on at the step that it had come to.

    Resuming a queued or running job changes nothing. One that is still `pausing` can't be: 409.
    """
    with service.database.transaction() as tx:
        job = jobs.resume(tx, job_id, project=caller.project)
        audit.note(tx, caller=caller, action="job.resume", target=job_id)
        return shown(tx, job)


async def _submit(
    service: Backends,
    readers: Readers,
    caller: Caller,
    values: object,
    once: Once,
    *,
    parent_id: str | None = None,
) -> Response:
    """Answer to the values of a spec."""
    create = partial(_create, service, caller, once, parent_id=parent_id)
    made = await run_in_threadpool(lambda: create(parse_spec(values), only_if_checked=True))
    if not isinstance(made, Response):
        spec = made
        await readers.run(partial(submission.check, service, spec, project=caller.project))
        made = await run_in_threadpool(create, spec)
    assert isinstance(made, Response)
    return made


def _create(
    service: Backends,
    caller: Caller,
    once: Once,
    spec: JobSpec,
    *,
    parent_id: str | None,
    only_if_checked: bool = False,
) -> Response | JobSpec:
    """Create a job whose rows are good, or return the spec whose rows are to be read first."""
    project = caller.project
    with service.database.transaction() as tx:
        needed = spec.data.dataset_ids() if only_if_checked else []
        customs, held = customs_and_datasets(tx, project, needed)
        if only_if_checked:
            cipher = cipher_of(service.settings) if customs.has_secrets else None
            home = service.settings.home
            found = submission.look_up(
                tx, spec, project=project, home=home, cipher=cipher, held=held
            )
            if not submission.is_checked(spec, found):
                return spec
        if parent_id is not None:
            jobs.get(tx, parent_id, project=project, is_locked=True)  # may be deleted by now
        job = jobs.create(
            tx,
            spec,
            project=project,
            max_attempts=service.settings.max_attempts,
            parent_id=parent_id,
            caller=caller,
            customs=customs,
            are_held=only_if_checked,
        )
        return once.answer(tx, shown_new(tx, job), location=f"/jobs/{job.id}")


def _get(service: Backends, caller: Caller, job_id: str) -> StoredJob:
    with service.database.transaction() as tx:
        return jobs.get(tx, job_id, project=caller.project)


def _spec_of(job: StoredJob) -> dict[str, Any]:
    """Return the spec of a job, with what its owner has changed since."""
    resources = {**job.spec["resources"], "priority": job.priority}
    return {**job.spec, "name": job.name, "labels": job.labels, "resources": resources}


def _cancellation(values: object) -> Cancellation:
    if not isinstance(values, dict):
        raise InvalidSpec([FieldProblem("", "the body is no JSON object", 'Send {"keep": true}.')])
    try:
        return Cancellation.model_validate(values)
    except ValidationError as error:
        raise InvalidSpec(field_problems(error, values, Cancellation)) from error
