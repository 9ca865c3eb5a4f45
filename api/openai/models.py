"""`/v1/models`: registered base models, and what jobs have made."""

from typing import Annotated

from fastapi import APIRouter
from fastapi import Path as InPath

from api.access import Caller, Reader, Submitter
from api.dependencies import Service
from api.joining import discard
from api.openai import schemas
from api.openai.naming import seconds, tuned_name
from api.openai_errors import responses as errors
from jobs.records import Job
from jobs.records import Model as BaseModel
from jobs.store import artifacts, audit, fine_tunes, jobs, models, permissions
from jobs.transaction import Transaction
from trainer_core.errors import InvalidRequest, JobNotFound, ModelNotFound
from trainer_core.spec import Scheme, parse_model_reference

router = APIRouter()

ModelName = Annotated[
    str, InPath(description="Name of a base model, or an `ft:` name.", max_length=500)
]
_PAGE = 1000
_TUNED = ("ft:", "job:")


@router.get("/models")
def list_openai_models(caller: Reader, service: Service) -> schemas.List[schemas.OpenAIModel]:
    """List every model that a job can begin with: base models by name, then those of jobs."""
    with service.database.transaction() as tx:
        base = [_base_view(model) for model in _all_base(tx, caller)]
        made = fine_tunes.with_models(tx, project=caller.project)
        suffixes = fine_tunes.of_jobs(tx, [job.id for job in made])
        tuned = [
            _tuned_view(tx, job, suffix=(said and said.suffix) or "")
            for job in made
            for said in [suffixes.get(job.id)]
        ]
    found = [*base, *tuned]
    return schemas.page_of(found, limit=len(found))


@router.get("/models/{model:path}", responses=errors(404))
def get_openai_model(caller: Reader, service: Service, model: ModelName) -> schemas.OpenAIModel:
    """Return a model."""
    with service.database.transaction() as tx:
        if model.startswith(_TUNED):
            return _tuned_view(tx, tuned_job(tx, model, project=caller.project))
        return _base_view(models.get(tx, model, project=caller.project))


@router.delete("/models/{model:path}", responses=errors(404, 409))
def delete_openai_model(caller: Submitter, service: Service, model: ModelName) -> schemas.Deleted:
    """Delete the model of a job, unless a job that has not ended begins with it.

    The job stays, and so do its figures. A base model stays as well: that is 400.
    """
    with service.database.transaction() as tx:
        if not model.startswith(_TUNED):
            models.get(tx, model, project=caller.project)
            raise InvalidRequest(
                f"'{model}' is a base model; only models of jobs can be deleted here.",
                param="model",
            )
        job = tuned_job(tx, model, project=caller.project)
        jobs.get(tx, job.id, project=caller.project)  # one that others lent is theirs
        keys = artifacts.remove(tx, job.id)
        audit.note(tx, caller=caller, action="model.delete", target=f"job:{job.id}")
    discard(service, keys)
    return schemas.Deleted(id=model, object="model")


def tuned_job(tx: Transaction, name: str, *, project: str) -> Job:
    """Return the job whose finished model a name means, or raise ModelNotFound."""
    missing = ModelNotFound(f"there is no model '{name[:200]}'.", param="model")
    try:
        reference = parse_model_reference(name)
    except ValueError as error:
        raise missing from error
    if reference.scheme is not Scheme.JOB or reference.checkpoint is not None:
        raise missing
    try:
        job = permissions.source_job(tx, reference.name, step=None, project=project)
    except JobNotFound as error:
        raise missing from error
    if not artifacts.of_job(tx, job.id):
        raise missing
    return job


def _all_base(tx: Transaction, caller: Caller) -> list[BaseModel]:
    found: list[BaseModel] = []
    while True:
        after = found[-1].name if found else None
        page = models.page(tx, project=caller.project, after=after, limit=_PAGE)
        found += page
        if len(page) < _PAGE:
            return found


def _base_view(model: BaseModel) -> schemas.OpenAIModel:
    return schemas.OpenAIModel(
        id=model.name, created=seconds(model.created_at), owned_by=f"org-{model.project}"
    )


def _tuned_view(tx: Transaction, job: Job, *, suffix: str | None = None) -> schemas.OpenAIModel:
    return schemas.OpenAIModel(
        id=tuned_name(tx, job, suffix=suffix),
        created=seconds(job.finished_at or job.created_at),
        owned_by=f"org-{job.project}",
    )
