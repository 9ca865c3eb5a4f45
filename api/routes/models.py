"""Registering base models: a folder of the server below an allowed root, or a Hub repository."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

from fastapi import APIRouter, Query, Response
from pydantic import Field, ValidationError, model_validator

from api import openapi, problems
from api.access import Admin, Reader
from api.bodies import JsonBody
from api.dependencies import PageParameters, Service
from api.idempotency import Idempotent
from api.schemas import Model, ModelPage
from jobs.store import audit, models
from trainer_core.errors import FieldProblem, InvalidSpec
from trainer_core.spec import parse_model_reference
from trainer_core.spec.base import Name, SpecModel, Text
from trainer_core.spec.parsing import field_problems

router = APIRouter(tags=["base models"])


class Registration(SpecModel):
    """A base model to register: `path` or `hub`."""

    name: Name
    """Name by which specs refer to it, `model:NAME`."""
    path: Annotated[Text, Field(min_length=1, max_length=4096)] | None = None
    """Absolute folder of the server, with config.json and safetensors."""
    hub: Annotated[Text, Field(min_length=1, max_length=200)] | None = None
    """Repository of the Hub, `org/name`."""
    revision: Annotated[Text, Field(min_length=1, max_length=128)] | None = None
    """Branch, tag or commit of the repository."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give path or hub, one of the two")
        if self.path is not None and self.revision is not None:
            raise ValueError("revision goes with hub, not with path")
        parse_model_reference(f"model:{self.name}")
        if self.hub is not None:
            parse_model_reference(f"hub:{self.hub}" + f"@{self.revision}" * bool(self.revision))
        return self


@router.post(
    "/models",
    status_code=201,
    response_model=Model,
    responses=problems.responses(400, 409, 413, 415, 422),
    openapi_extra=openapi.body(
        {
            "schema": Registration.model_json_schema(),
            "examples": {
                "folder": {"value": {"name": "minilm", "path": "/srv/models/minilm"}},
                "hub": {"value": {"name": "minilm", "hub": "org/minilm", "revision": "main"}},
            },
        }
    ),
)
def register_model(caller: Admin, service: Service, body: JsonBody, once: Idempotent) -> Response:
    """Register a base model under a name."""
    wanted = _registration(body)
    path = None
    if wanted.path is not None:
        path = str(_checked_folder(wanted.path, service.settings.model_roots))
    with service.database.transaction() as tx:
        model = models.create(
            tx,
            wanted.name,
            project=caller.project,
            path=path,
            hub=wanted.hub,
            revision=wanted.revision,
        )
        audit.note(tx, caller=caller, action="model.create", target=model.name)
        return once.answer(tx, Model.model_validate(model), location=f"/models/{model.name}")


@router.get("/models", responses=problems.responses(422))
def list_models(
    caller: Reader, service: Service, parameters: Annotated[PageParameters, Query()]
) -> ModelPage:
    """List base models by name."""
    limit = parameters.limit
    with service.database.transaction() as tx:
        found = models.page(tx, project=caller.project, after=parameters.after, limit=limit + 1)
    return ModelPage(
        data=[Model.model_validate(model) for model in found[:limit]], has_more=len(found) > limit
    )


@router.get("/models/{name}", responses=problems.responses(404))
def get_model(caller: Reader, service: Service, name: str) -> Model:
    """Return a registered base model."""
    with service.database.transaction() as tx:
        return Model.model_validate(models.get(tx, name, project=caller.project))


def _registration(values: object) -> Registration:
    if not isinstance(values, dict):
        raise InvalidSpec([FieldProblem("", "a model is a JSON object with a name")])
    try:
        return Registration.model_validate(values)
    except ValidationError as error:
        raise InvalidSpec(field_problems(error, values, Registration)) from error


def _checked_folder(given: str, roots: Sequence[Path]) -> Path:
    """Return the real folder, or raise InvalidSpec; what lies outside the roots stays unknown."""
    folder = _real(given)
    inside = [real for real in map(_real, roots) if folder.is_relative_to(real)]
    if not Path(given).is_absolute() or not inside:
        allowed = ", ".join(map(str, roots)) or "none; set LUTHIER_MODEL_ROOTS"
        raise _path_problem(
            f"'{given[:200]}' is no folder below a model root", f"Model roots: {allowed}."
        )
    if not _has_file(folder, "config.json", inside):
        raise _path_problem(f"'{given[:200]}' has no config.json", "Give a model's own folder.")
    if not _has_file(folder, "*.safetensors", inside):
        raise _path_problem(
            f"'{given[:200]}' has no *.safetensors", "Convert its weights to safetensors."
        )
    return folder


def _has_file(folder: Path, pattern: str, roots: Sequence[Path]) -> bool:
    """Return whether a file is there, and is no link that leads out of the roots."""
    try:
        real = [_real(path) for path in folder.glob(pattern)]
        return any(path.is_file() and any(map(path.is_relative_to, roots)) for path in real)
    except OSError:  # a name too long, a folder that may not be read
        return False


def _real(path: str | Path) -> Path:
    return Path(os.path.realpath(path))  # unlike Path.resolve it bears a loop of links


def _path_problem(message: str, hint: str) -> InvalidSpec:
    return InvalidSpec([FieldProblem("/path", message, hint)])
