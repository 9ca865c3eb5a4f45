"""Trying a finished model: a worker answers, one question at a time."""

from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from pydantic import Field, ValidationError

from api import openapi, problems
from api.access import Caller, Submitter
from api.asking import Askers, check_askable, question, whole_answer
from api.bodies import JsonBody
from api.dependencies import JobId, Service
from api.schemas import Prediction, PredictionUsage
from jobs.backends import Backends
from jobs.records import Job
from jobs.store import jobs
from trainer_core.errors import FieldProblem, InvalidSpec
from trainer_core.predictions import MAX_INPUTS, PredictionSettings
from trainer_core.spec.parsing import field_problems

router = APIRouter(tags=["models of jobs"])


class PredictionBody(PredictionSettings):
    """What to ask a model."""

    inputs: Annotated[tuple[Any, ...], Field(min_length=1, max_length=MAX_INPUTS)]
    """Texts, or objects with what the task needs: `text` and `text_pair`, `question` and `context`,
    `question` and `choices`, `prompt` or `messages`."""


@router.post(
    "/jobs/{job_id}/predict",
    responses=problems.responses(400, 404, 409, 413, 415, 422, 503),
    openapi_extra=openapi.body(
        {
            "schema": openapi.schema_of(PredictionBody),
            "examples": {
                "texts": {"value": {"inputs": ["I want my money back"]}},
                "a conversation": {
                    "value": {
                        "inputs": [{"messages": [{"role": "user", "content": "Hello"}]}],
                        "max_new_tokens": 64,
                    }
                },
            },
        }
    ),
)
async def predict(
    caller: Submitter, service: Service, asker: Askers, job_id: JobId, body: JsonBody
) -> Prediction:
    """Ask the model of a job: for trying it, not for traffic.

    A label with its score, tags, an answer, a text or a vector, as the task has it. One model is in
    memory at a time, on the CPU unless the worker says otherwise; eight questions of a project may
    wait.
    """
    asked = _body(body)
    job = await run_in_threadpool(_job, service, caller, job_id)
    answer = await whole_answer(asker, question(job, asked.inputs, asked))
    return Prediction(
        job_id=job.id,
        task=job.task,
        data=answer["outputs"],
        usage=PredictionUsage(
            input_tokens=answer["num_input_tokens"], output_tokens=answer["num_output_tokens"]
        ),
    )


def _job(service: Backends, caller: Caller, job_id: str) -> Job:
    with service.database.transaction() as tx:
        job = jobs.get(tx, job_id, project=caller.project)
        check_askable(tx, job, service.settings)
    return job


def _body(values: object) -> PredictionBody:
    if not isinstance(values, dict):
        raise InvalidSpec([FieldProblem("", "the body is no JSON object", "Send inputs.")])
    try:
        return PredictionBody.model_validate(values)
    except ValidationError as error:
        raise InvalidSpec(field_problems(error, values, PredictionBody)) from error
