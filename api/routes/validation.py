"""Looking at a job, or at a data set for a task, before anything is submitted."""

from functools import partial

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool

from api import openapi, problems
from api.access import Caller, Reader, Scope
from api.bodies import JsonBody
from api.dependencies import DatasetId, Service
from api.inspections import Inspections, JobInspector
from api.reports import Validation
from jobs.backends import Backends
from jobs.store import datasets
from jobs.validation import NO_MODEL, validate
from trainer_core.errors import FieldProblem, InvalidSpec

router = APIRouter(tags=["validation"])


@router.post(
    "/jobs/validate",
    responses=problems.responses(400, 413, 415, 503),
    openapi_extra=openapi.spec_body(),
)
async def validate_job(
    caller: Reader, service: Service, inspector: JobInspector, body: JsonBody
) -> Validation:
    """Return everything that is wrong with a job, and what it would do; nothing is queued.

    The rows are read whole: columns, labels, bad rows with their places, what is there twice, what
    of the evaluation rows is trained on. A sample of them is tokenized. For each kind of device of
    the workers, every `auto` is decided, and memory, disk and time are estimated. The project's
    quotas are looked at as they are now. A job with errors is answered with 200, too: see
    `is_valid`.
    """
    return await validated(service, inspector, body, caller=caller, is_submission=True)


@router.post(
    "/datasets/{dataset_id}/validate",
    responses=problems.responses(400, 404, 413, 415, 422, 503),
    openapi_extra=openapi.body(
        {
            "schema": {
                "type": "object",
                "required": ["task"],
                "properties": {
                    "task": {"type": "string", "description": "Of GET /tasks."},
                    "columns": {"type": "object", "description": "As `data.columns` of a spec."},
                    "model": {"type": "string", "description": "To count tokens with."},
                },
            },
            "examples": {
                "columns": {
                    "value": {"task": "text-classification", "columns": {"label": "intent"}}
                }
            },
        }
    ),
)
async def validate_dataset(
    caller: Reader,
    service: Service,
    inspector: JobInspector,
    dataset_id: DatasetId,
    body: JsonBody,
) -> Validation:
    """Return whether a data set suits a task, without a job.

    With a `model` its tokens are counted, too, and memory and time are estimated.
    """
    spec = await run_in_threadpool(_spec, service, dataset_id, body, project=caller.project)
    return await validated(service, inspector, spec, caller=caller, is_submission=False)


async def validated(
    service: Backends,
    inspector: Inspections,
    spec: object,
    *,
    caller: Caller,
    is_submission: bool,
) -> Validation:
    """Return what is to be said of a job, from a thread that may take its time."""
    look = partial(
        validate,
        service,
        inspector.processes,
        spec,
        project=caller.project,
        may_use_secrets=Scope.SUBMIT in caller.scopes,
        is_submission=is_submission,
    )
    return Validation.of(await inspector.run(look))


def _spec(service: Backends, dataset_id: str, values: object, *, project: str) -> dict[str, object]:
    """Return the spec of a job that would train on a data set."""
    with service.database.transaction() as tx:
        datasets.get(tx, dataset_id, project=project)
    if not isinstance(values, dict):
        raise InvalidSpec([FieldProblem("", "the body is no JSON object", 'Send {"task": …}.')])
    if unknown := sorted(values.keys() - {"task", "columns", "model"}):
        raise InvalidSpec(
            [
                FieldProblem(f"/{name}", "is not known", "Known: task, columns, model.")
                for name in unknown
            ]
        )
    data = {"train": f"dataset:{dataset_id}", "columns": values.get("columns", {})}
    return {"task": values.get("task"), "model": values.get("model", NO_MODEL), "data": data}
