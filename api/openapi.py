"""The OpenAPI document: FastAPI's, with the schemas that no route's signature names."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter
from pydantic.json_schema import models_json_schema

from api.schemas import FieldError, Problem
from jobs.sweeps.plan import Plan
from trainer_core.spec import TASKS, JobSpec

_REF = "#/components/schemas/{model}"


def describe(app: FastAPI) -> None:
    """Let the application tell the whole document, made once."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def spec_body() -> dict[str, Any]:
    """Return the description of a body that is a job spec, with an example a task."""
    examples = {task: {"summary": t.summary, "value": t.example} for task, t in TASKS.items()}
    schema = {"$ref": _REF.format(model="JobSpec")}
    return body({"schema": schema, "examples": examples})


def body(
    content: dict[str, Any], *, media_type: str = "application/json", is_required: bool = True
) -> dict[str, Any]:
    """Return the description of a body that the route reads by itself."""
    return {"requestBody": {"required": is_required, "content": {media_type: content}}}


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
    )
    _, problems = models_json_schema(
        [(Problem, "serialization"), (FieldError, "serialization"), (Plan, "validation")],
        ref_template=_REF,
    )
    spec = TypeAdapter(JobSpec).json_schema(ref_template=_REF)
    definitions = problems["$defs"] | spec.pop("$defs") | {"JobSpec": spec}
    schemas = document["components"]["schemas"] | definitions
    document["components"]["schemas"] = dict(sorted(schemas.items()))
    return document
