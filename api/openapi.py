"""The OpenAPI document: FastAPI's, with the schemas that no route's signature names."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema

from api.schemas import ErrorBody, ErrorResponse, FieldError, Problem
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


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of a body, whole: in the document its parts have no place of their own."""
    schema = model.model_json_schema()
    whole: dict[str, Any] = _inlined(schema, schema.pop("$defs", {}))
    return whole


def body(
    content: dict[str, Any], *, media_type: str = "application/json", is_required: bool = True
) -> dict[str, Any]:
    """Return the description of a body that the route reads by itself."""
    return {"requestBody": {"required": is_required, "content": {media_type: content}}}


def _inlined(value: Any, definitions: dict[str, Any]) -> Any:
    """Return a schema with what its references lead to in their place."""
    if isinstance(value, list):
        return [_inlined(item, definitions) for item in value]
    if not isinstance(value, dict):
        return value
    reference = value.get("$ref", "")
    if reference.startswith("#/$defs/"):
        rest = {name: item for name, item in value.items() if name != "$ref"}
        return _inlined(definitions[reference.rpartition("/")[2]] | rest, definitions)
    return {name: _inlined(item, definitions) for name, item in value.items()}


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
    )
    _, problems = models_json_schema(
        [
            *((told, "serialization") for told in (Problem, FieldError, ErrorResponse, ErrorBody)),
            (Plan, "validation"),
        ],
        ref_template=_REF,
    )
    spec = TypeAdapter(JobSpec).json_schema(ref_template=_REF)
    definitions = problems["$defs"] | spec.pop("$defs") | {"JobSpec": spec}
    schemas = document["components"]["schemas"] | definitions
    document["components"]["schemas"] = dict(sorted(schemas.items()))
    return document
