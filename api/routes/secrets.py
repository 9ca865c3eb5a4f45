"""Named secrets: stored and replaced, and never shown."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from api import openapi, problems
from api.access import Admin, Reader
from api.access_schemas import Secret, SecretPage
from api.bodies import JsonBody
from api.dependencies import PageParameters, Service
from jobs.sealing import cipher_of
from jobs.store import audit, secrets
from trainer_core.errors import FieldProblem, InvalidSpec
from trainer_core.redaction import MIN_CHARACTERS

router = APIRouter(tags=["secrets"])

_MAX_CHARACTERS = 16_384
_Name = Annotated[
    str, Path(description="Name of the secret.", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")
]
_BODY = {
    "type": "object",
    "required": ["value"],
    "additionalProperties": False,
    "properties": {
        "value": {
            "type": "string",
            "minLength": MIN_CHARACTERS,
            "maxLength": _MAX_CHARACTERS,
            "writeOnly": True,
        }
    },
}


@router.put(
    "/secrets/{name}",
    responses=problems.responses(400, 413, 415, 422, 503),
    openapi_extra=openapi.body(
        {"schema": _BODY, "examples": {"token": {"value": {"value": "hf_0123456789"}}}}
    ),
)
def set_secret(caller: Admin, service: Service, name: _Name, body: JsonBody) -> Secret:
    """Store a secret under a name, in place of one that has it. Specs refer to it by that name."""
    value, cipher = _value_of(body), cipher_of(service.settings)
    with service.database.transaction() as tx:
        stored = secrets.put(tx, name, value, project=caller.project, cipher=cipher)
        audit.note(tx, caller=caller, action="secret.set", target=name)
    return Secret.model_validate(stored)


@router.get("/secrets", responses=problems.responses(422))
def list_secrets(
    caller: Reader, service: Service, parameters: Annotated[PageParameters, Query()]
) -> SecretPage:
    """List secrets by name. No request returns a value."""
    limit = parameters.limit
    with service.database.transaction() as tx:
        found = secrets.page(tx, project=caller.project, after=parameters.after, limit=limit + 1)
    return SecretPage(
        data=[Secret.model_validate(one) for one in found[:limit]], has_more=len(found) > limit
    )


@router.delete("/secrets/{name}", status_code=204, responses=problems.responses(404, 422))
def delete_secret(caller: Admin, service: Service, name: _Name) -> None:
    """Forget a secret. Jobs that refer to it and have not begun will fail."""
    with service.database.transaction() as tx:
        secrets.remove(tx, name, project=caller.project)
        audit.note(tx, caller=caller, action="secret.delete", target=name)


def _value_of(body: object) -> str:
    """Return the value in a body. What is wrong with it is told without a word of it."""
    value = body.get("value") if isinstance(body, dict) and set(body) == {"value"} else None
    if not isinstance(value, str):
        problem = FieldProblem("", 'the body is not {"value": …} with a text')
    elif not MIN_CHARACTERS <= len(value) <= _MAX_CHARACTERS:
        problem = FieldProblem(
            "/value", f"has not from {MIN_CHARACTERS} to {_MAX_CHARACTERS} characters"
        )
    elif not value.isprintable():
        problem = FieldProblem("/value", "holds a line's end or another control character")
    else:
        return value
    raise InvalidSpec([problem])
