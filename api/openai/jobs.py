"""`/v1/fine_tuning/jobs`: our jobs, whoever submitted them, in OpenAI's words."""

import re
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as InPath
from fastapi.concurrency import run_in_threadpool
from pydantic import ConfigDict

from api import openapi
from api.access import Caller, Reader, Submitter
from api.bodies import JsonBody
from api.dependencies import Cursor, Limit, Parameters, Service
from api.idempotency import Idempotent, Once
from api.openai import schemas
from api.openai.bodies import JobBody, split_job
from api.openai.naming import checkpoint_name, job_id_of, model_reference, tuned_name
from api.openai.translating import PLACES, Files, spec_of, told
from api.openai.views import TOLD_EVENTS, checkpoint_view, event_view, job_view, job_views
from api.openai_errors import responses as errors
from api.reading import RowReaders
from jobs import submission
from jobs.backends import Backends
from jobs.records import Dataset
from jobs.store import audit, checkpoints, datasets, events, files, fine_tunes, jobs, models
from jobs.transaction import Transaction
from trainer_core.errors import (
    DataError,
    FieldProblem,
    InvalidSpec,
    InvalidTrainingFile,
    NotFound,
)
from trainer_core.spec import JobSpec, Scheme, parse_model_reference

router = APIRouter()

FineTuningJobId = Annotated[
    str, InPath(description="Id of the job, such as `ftjob-01k9…`.", max_length=100)
]
_SAID = {"suffix", "metadata", "integrations"}
"""What is kept of a request besides the spec."""
_METADATA = re.compile(r"metadata\[(.{1,64})\]")
_EXAMPLE = {
    "model": "smollm2",
    "training_file": "file-01k9",
    "suffix": "support",
    "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
}


class PageOf20(Parameters):
    """Parameters of a list."""

    after: Cursor = None
    limit: Limit = 20


class PageOf10(Parameters):
    """Parameters of a list."""

    after: Cursor = None
    limit: Limit = 10


class JobListParameters(PageOf20):
    """Which jobs to list.

    Besides these there are `metadata[KEY]=VALUE`, and `metadata=null` for those without any.
    """

    model_config = ConfigDict(extra="allow")


@router.post(
    "/fine_tuning/jobs",
    response_model=schemas.FineTuningJob,
    openapi_extra=openapi.body(
        {
            "schema": openapi.schema_of(JobBody) | {"additionalProperties": True},
            "examples": {"supervised": {"value": _EXAMPLE}},
        }
    ),
    responses=errors(404, 409, 413, 415, 503),
)
async def create_fine_tuning_job(
    caller: Submitter, service: Service, readers: RowReaders, body: JsonBody, once: Idempotent
) -> Response:
    """Submit a job. What is no field of OpenAI's is one of the spec: `task`, `adapter`, `training`.

    The rows are checked before the job is accepted, so it is never `validating_files`.
    """
    said, ours = await run_in_threadpool(split_job, body)
    spec = await run_in_threadpool(_spec, service, said, ours, caller)
    await readers.run(partial(_check, service, spec, caller))
    return await run_in_threadpool(_create, service, caller, spec, said, once)


@router.get("/fine_tuning/jobs")
def list_fine_tuning_jobs(
    request: Request,
    caller: Reader,
    service: Service,
    parameters: Annotated[JobListParameters, Query()],
) -> schemas.List[schemas.FineTuningJob]:
    """List jobs, newest first."""
    pairs, has_none = _metadata_of(request, parameters)
    with service.database.transaction() as tx:
        found = fine_tunes.page(
            tx,
            project=caller.project,
            after=job_id_of(parameters.after) if parameters.after else None,
            limit=parameters.limit + 1,
            metadata=pairs,
            has_no_metadata=has_none,
        )
        return schemas.page_of(job_views(tx, found), limit=parameters.limit)


@router.get("/fine_tuning/jobs/{job_id}", responses=errors(404))
def get_fine_tuning_job(
    caller: Reader, service: Service, job_id: FineTuningJobId
) -> schemas.FineTuningJob:
    """Return a job."""
    with service.database.transaction() as tx:
        return job_view(tx, jobs.get(tx, job_id_of(job_id), project=caller.project))


@router.post("/fine_tuning/jobs/{job_id}/cancel", responses=errors(404, 409))
def cancel_fine_tuning_job(
    caller: Submitter, service: Service, job_id: FineTuningJobId
) -> schemas.FineTuningJob:
    """Cancel a job. A running one is `running` until its worker has stopped it."""
    with service.database.transaction() as tx:
        job = jobs.cancel(tx, job_id_of(job_id), project=caller.project)
        audit.note(tx, caller=caller, action="job.cancel", target=job.id)
        return job_view(tx, job)


@router.post("/fine_tuning/jobs/{job_id}/pause", responses=errors(404, 409))
def pause_fine_tuning_job(
    caller: Submitter, service: Service, job_id: FineTuningJobId
) -> schemas.FineTuningJob:
    """Pause a job. A running one is `pausing` until its worker has saved it."""
    with service.database.transaction() as tx:
        job = jobs.pause(tx, job_id_of(job_id), project=caller.project)
        audit.note(tx, caller=caller, action="job.pause", target=job.id)
        return job_view(tx, job)


@router.post("/fine_tuning/jobs/{job_id}/resume", responses=errors(404, 409))
def resume_fine_tuning_job(
    caller: Submitter, service: Service, job_id: FineTuningJobId
) -> schemas.FineTuningJob:
    """Queue a paused job again."""
    with service.database.transaction() as tx:
        job = jobs.resume(tx, job_id_of(job_id), project=caller.project)
        audit.note(tx, caller=caller, action="job.resume", target=job.id)
        return job_view(tx, job)


@router.get("/fine_tuning/jobs/{job_id}/events", responses=errors(404))
def list_fine_tuning_events(
    caller: Reader,
    service: Service,
    job_id: FineTuningJobId,
    parameters: Annotated[PageOf20, Query()],
) -> schemas.List[schemas.JobEvent]:
    """List what happened to a job, newest first."""
    before = _number_in(parameters.after)
    with service.database.transaction() as tx:
        job = jobs.get(tx, job_id_of(job_id), project=caller.project)
        found = events.read_newest(
            tx, job.id, types=TOLD_EVENTS, before=before, limit=parameters.limit + 1
        )
    return schemas.page_of([event_view(event) for event in found], limit=parameters.limit)


@router.get("/fine_tuning/jobs/{job_id}/checkpoints", responses=errors(404))
def list_fine_tuning_checkpoints(
    caller: Reader,
    service: Service,
    job_id: FineTuningJobId,
    parameters: Annotated[PageOf10, Query()],
) -> schemas.List[schemas.OpenAICheckpoint]:
    """List the stored checkpoints of a job, the latest first. Their names are those of models."""
    before = _number_in(parameters.after)
    with service.database.transaction() as tx:
        job = jobs.get(tx, job_id_of(job_id), project=caller.project)
        saved = checkpoints.of_any(tx, job.id)
        model = tuned_name(tx, job)
    shown = [
        checkpoint_view(one, model=checkpoint_name(model, one.step))
        for one in saved
        if before is None or one.step < before
    ]
    return schemas.page_of(shown[: parameters.limit + 1], limit=parameters.limit)


def _spec(service: Backends, said: JobBody, ours: dict[str, object], caller: Caller) -> JobSpec:
    kept = said.model_dump(mode="json", include=_SAID)
    with service.database.transaction() as tx:
        submission.check_said(tx, kept, project=caller.project, settings=service.settings)
        _check_named(tx, said.model, caller)
        found = Files(
            _dataset(tx, said.training_file, caller, param="training_file"),
            said.validation_file
            and _dataset(tx, said.validation_file, caller, param="validation_file"),
        )
    return spec_of(said, ours, found)


def _check_named(tx: Transaction, name: str, caller: Caller) -> None:
    """Raise ModelNotFound for a name that nobody has registered; the rest is checked later."""
    try:
        reference = parse_model_reference(model_reference(name))
    except ValueError:
        return
    if reference.scheme is Scheme.MODEL:
        models.get(tx, reference.name, project=caller.project)


def _dataset(tx: Transaction, file_id: str, caller: Caller, *, param: str) -> str:
    """Return the reference of the data set that a file is, or raise InvalidTrainingFile."""
    try:
        if file_id.startswith("ds_"):
            return f"dataset:{datasets.get(tx, file_id, project=caller.project).id}"
        file = files.get(tx, file_id, project=caller.project)
    except NotFound as error:
        raise InvalidTrainingFile(error.message, hint="Upload it first.", param=param) from error
    if file.dataset_id is None:
        raise InvalidTrainingFile(
            f"file {file_id} has the purpose '{file.purpose}'; '{files.TRAINING}' was expected.",
            hint="Upload it again with that purpose.",
            param=param,
        )
    return f"dataset:{file.dataset_id}"


def _check(service: Backends, spec: JobSpec, caller: Caller) -> None:
    """Raise what is wrong with the job, in OpenAI's words."""
    try:
        submission.check(service, spec, project=caller.project)
    except InvalidSpec as error:
        raise told(error, PLACES) from error
    except DataError as error:
        with service.database.transaction() as tx:
            found = submission.datasets_of(tx, spec, project=caller.project)
        raise InvalidTrainingFile(
            error.message,
            hint=error.hint,
            param=_file_at_fault(error, found),
            detail=error.detail,
        ) from error


def _file_at_fault(error: DataError, found: dict[str, Dataset]) -> str:
    """Return which of the two files an error in rows is about, by the name that it tells."""
    rows = error.detail.get("rows") or [error.detail]
    name = rows[0].get("file")
    validation = found.get("eval")
    is_validation = validation and name == validation.name != found["train"].name
    return "validation_file" if is_validation else "training_file"


def _create(
    service: Backends, caller: Caller, spec: JobSpec, said: JobBody, once: Once
) -> Response:
    integrations = [one.model_dump(mode="json") for one in said.integrations or ()]
    with service.database.transaction() as tx:
        max_attempts = service.settings.max_attempts
        job = jobs.create(
            tx, spec, project=caller.project, max_attempts=max_attempts, caller=caller
        )
        values = {
            "suffix": said.suffix,
            "metadata": said.metadata,
            "integrations": integrations or None,
        }
        fine_tunes.create(tx, job.id, values)
        return once.answer(tx, job_view(tx, job), status=200)


def _metadata_of(
    request: Request, parameters: JobListParameters
) -> tuple[dict[str, str] | None, bool]:
    """Return the pairs by which to choose jobs, and whether those without any are meant."""
    pairs = {}
    for name in parameters.model_extra or {}:
        value = request.query_params[name]
        if name == "metadata" and value == "null":
            return None, True
        match = _METADATA.fullmatch(name)
        if match is None:
            raise InvalidSpec([FieldProblem(f"/{name}", "is no parameter of this route")])
        pairs[match[1]] = value
    return pairs or None, False


def _number_in(cursor: str | None) -> int | None:
    """Return the number at the end of an id, or raise JobNotFound for what can't be one."""
    if cursor is None:
        return None
    number = cursor.rpartition("-")[2]
    if not number.isdecimal() or len(number) > 18:
        raise InvalidSpec([FieldProblem("/after", f"'{cursor[:80]}' is no id of this list")])
    return int(number)
