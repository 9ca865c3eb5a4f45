"""`/v1/fine_tuning/alpha/graders`: known to OpenAI's client, and not available here."""

from typing import NoReturn

from fastapi import APIRouter

from api import openai_errors, openapi
from api.access import Submitter
from api.bodies import JsonBody
from trainer_core.errors import FieldProblem, InvalidSpec

router = APIRouter(prefix="/fine_tuning/alpha/graders")

_ALWAYS = openai_errors.responses(400, 413, 415)
_BODY = openapi.body({"schema": {"type": "object"}})


@router.post(
    "/run",
    name="run_grader",
    status_code=400,
    responses=_ALWAYS,
    openapi_extra=_BODY,
    response_model=None,
)
@router.post(
    "/validate", name="validate_grader", status_code=400, responses=_ALWAYS, openapi_extra=_BODY,
    response_model=None,
)  # fmt: skip
def refuse_grader(_caller: Submitter, _body: JsonBody) -> NoReturn:
    """Answer 400, whatever the grader: graders are not run here."""
    problem = FieldProblem(
        "/grader",
        "graders are not run here",
        "Train with the method 'supervised', or 'dpo' with pairs of answers.",
    )
    raise InvalidSpec([problem])
