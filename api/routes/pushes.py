"""Pushing a model of a job to the Hub, again or for the first time; a worker does it."""

from typing import Any

from fastapi import APIRouter, Response
from pydantic import ValidationError

from api import openapi, problems
from api.access import Caller, Submitter
from api.bodies import OptionalJsonBody
from api.dependencies import CheckpointId, JobId, Service, step_of
from api.idempotency import Idempotent, Once
from api.schemas import Push
from jobs.backends import Backends
from jobs.records import Job
from jobs.sealing import cipher_of
from jobs.store import audit, checkpoints, jobs, pushes, secrets
from jobs.submission import check_secrets, no_push_secret
from jobs.transaction import Transaction
from trainer_core.errors import FieldProblem, InvalidSpec, SecretNotFound
from trainer_core.spec import parse_spec
from trainer_core.spec.parsing import field_problems
from trainer_core.spec.publishing import PushSpec

router = APIRouter(tags=["models of jobs"])


_BODY = openapi.body(
    {
        "schema": {**openapi.schema_of(PushSpec), "required": []},
        "examples": {
            "as the spec says": {"value": {}},
            "to a branch": {"value": {"repo": "me/my-model", "branch": "v2"}},
        },
    },
    is_required=False,
)


@router.post(
    "/jobs/{job_id}/push",
    status_code=202,
    response_model=Push,
    responses=problems.responses(400, 404, 409, 413, 415, 422),
    openapi_extra=_BODY,
)
def push_model(
    caller: Submitter, service: Service, job_id: JobId, body: OptionalJsonBody, once: Idempotent
) -> Response:
    """Push the finished model of a job to the Hub, without training.

    What the body leaves out is as the spec has it in `output.push`. A worker does it soon; the job
    shows how it went, under `pushes`. Files that the repository has already are not sent again, and
    what else is in it stays. While one push of it is pending, another is refused: 409.
    """
    return _push(service, caller, job_id, body, once)


@router.post(
    "/jobs/{job_id}/checkpoints/{checkpoint_id}/push",
    status_code=202,
    response_model=Push,
    responses=problems.responses(400, 404, 409, 413, 415, 422),
    openapi_extra=_BODY,
)
def push_checkpoint(
    *,
    caller: Submitter,
    service: Service,
    job_id: JobId,
    checkpoint_id: CheckpointId,
    body: OptionalJsonBody,
    once: Idempotent,
) -> Response:
    """Push the model of a checkpoint to the Hub, also while its job runs.

    It goes as with `POST /jobs/{id}/push`. Of a job that trains an adapter it is the adapter. The
    checkpoint stays in the storage until the push is over, and the pushes of a job are done in the
    order in which they were asked for.
    """
    return _push(service, caller, job_id, body, once, step=step_of(checkpoint_id))


def _push(
    service: Backends,
    caller: Caller,
    job_id: str,
    body: object,
    once: Once,
    *,
    step: int | None = None,
) -> Response:
    with service.database.transaction() as tx:
        job = jobs.get(tx, job_id, project=caller.project, is_locked=True)
        if step is not None:
            checkpoints.get_any(tx, job_id, step)  # or it is refused
        cipher = cipher_of(service.settings)
        check_secrets(tx, body, project=caller.project, cipher=cipher)
        asked = _asked(job, body)
        _check_secret(tx, asked.secret, project=caller.project)
        tries = service.settings.max_attempts
        push = pushes.ask(tx, job.id, asked, max_tries=tries, step=step)
        noted = {"repo": push.repo, "checkpoint": push.checkpoint}
        audit.note(tx, caller=caller, action="job.push", target=job_id, **noted)
        return once.answer(tx, Push.model_validate(push), status=202)


def _check_secret(tx: Transaction, name: str | None, *, project: str) -> None:
    if name is None:
        raise InvalidSpec([no_push_secret("/secret")])
    try:
        secrets.check(tx, name, project=project)
    except SecretNotFound as error:
        raise InvalidSpec([FieldProblem("/secret", error.message, error.hint)]) from error


def _asked(job: Job, body: object) -> PushSpec:
    """Return what a body says, with what it leaves open as the job's spec has it."""
    if not isinstance(body, dict):
        raise InvalidSpec([FieldProblem("", "what to push is a JSON object")])
    spec = parse_spec(job.spec)
    before: dict[str, Any] = {} if spec.output.push is None else spec.output.push.model_dump()
    values = {**before, **body}
    try:
        return PushSpec.model_validate(values).with_secret(spec.secrets)
    except ValidationError as error:
        raise InvalidSpec(field_problems(error, values, PushSpec)) from error
