"""API keys of a project."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Response
from pydantic import AwareDatetime, Field

from api import openapi, problems
from api.access import Admin, Caller
from api.access_schemas import Key, KeyPage, NewKey
from api.bodies import JsonBody, OptionalJsonBody, parsed
from api.dependencies import PageParameters, Service
from api.idempotency import NotIdempotent
from api.routes.projects import ProjectName
from jobs.store import audit, keys
from jobs.store.keys import IssuedKey
from trainer_core.errors import FieldProblem, Forbidden, InvalidSpec
from trainer_core.spec.base import ShortText, SpecModel

router = APIRouter(tags=["keys"])

_KeyId = Annotated[str, Path(description="Id of the key, such as `key_01k9…`.", max_length=100)]
_DAY = 86_400


class KeyParameters(PageParameters):
    """Whose keys to list."""

    project: Annotated[
        ProjectName | None, Query(description="Of another project, for operators.")
    ] = None


class WantedKey(SpecModel):
    """A key to make."""

    name: ShortText
    """Name for people: who or what uses it."""
    scopes: Annotated[
        tuple[Literal["read", "submit", "admin"], ...], Field(min_length=1, max_length=3)
    ]
    """`read`, `submit` (which includes it) or `admin` (which includes both)."""
    expires_at: AwareDatetime | None = None
    """When it ends. Default null: never."""
    requests_per_second: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    """Its own limit; for operators to set. Default null: the service's."""
    project: ProjectName | None = None
    """For operators: whose key it is. Default null: your own project's."""


class Rotation(SpecModel):
    """How to replace a key."""

    overlap_seconds: Annotated[int, Field(ge=0, le=90 * _DAY)] = _DAY
    """For how long the old one works on, 0 to 90 days. Default one day."""


@router.post(
    "/keys",
    status_code=201,
    responses=problems.responses(400, 404, 413, 415, 422),
    openapi_extra=openapi.body(
        {
            "schema": WantedKey.model_json_schema(),
            "examples": {"pipeline": {"value": {"name": "nightly", "scopes": ["submit"]}}},
        }
    ),
)
def create_key(
    caller: Admin, service: Service, body: JsonBody, response: Response, _once: NotIdempotent
) -> NewKey:
    """Make an API key. Its secret is in this answer, and never told again."""
    wanted = parsed(body, WantedKey)
    _check_operator(caller, wanted.project, "project")
    if wanted.requests_per_second is not None and not caller.is_operator:
        raise Forbidden(
            "limits of requests are set by the service's operators.",
            hint="Leave requests_per_second out.",
            param="requests_per_second",
        )
    if wanted.expires_at is not None and wanted.expires_at <= datetime.now(UTC):
        raise InvalidSpec([FieldProblem("/expires_at", "is in the past")])
    with service.database.transaction() as tx:
        issued = keys.issue(
            tx,
            project=wanted.project or caller.project,
            name=wanted.name,
            scopes=wanted.scopes,
            expires_at=wanted.expires_at,
            requests_per_second=wanted.requests_per_second,
        )
        audit.note(
            tx,
            caller=caller,
            action="key.create",
            target=issued.key.id,
            project=issued.key.project,
            name=wanted.name,
            scopes=list(wanted.scopes),
        )
    response.headers["Location"] = f"/keys/{issued.key.id}"
    return _told(issued)


@router.get("/keys", responses=problems.responses(422))
def list_keys(
    caller: Admin, service: Service, parameters: Annotated[KeyParameters, Query()]
) -> KeyPage:
    """List keys, newest first, with when each was used last."""
    _check_operator(caller, parameters.project, "project")
    project, limit = parameters.project or caller.project, parameters.limit
    with service.database.transaction() as tx:
        found = keys.page(tx, project=project, after=parameters.after, limit=limit + 1)
    return KeyPage(
        data=[Key.model_validate(key) for key in found[:limit]], has_more=len(found) > limit
    )


@router.get("/keys/{key_id}", responses=problems.responses(404))
def get_key(caller: Admin, service: Service, key_id: _KeyId) -> Key:
    """Return a key, without its secret."""
    with service.database.transaction() as tx:
        return Key.model_validate(keys.get(tx, key_id, project=_reach(caller)))


@router.post(
    "/keys/{key_id}/rotate",
    status_code=201,
    responses=problems.responses(400, 404, 413, 415, 422),
    openapi_extra=openapi.body(
        {
            "schema": Rotation.model_json_schema(),
            "examples": {"within an hour": {"value": {"overlap_seconds": 3600}}},
        },
        is_required=False,
    ),
)
def rotate_key(
    caller: Admin, service: Service, key_id: _KeyId, body: OptionalJsonBody, _once: NotIdempotent
) -> NewKey:
    """Make a new key like this one, which works on for a while: time to put the new one in place.

    One that would end by itself gets a successor with as long a life.
    """
    overlap_seconds = parsed(body, Rotation).overlap_seconds
    with service.database.transaction() as tx:
        issued = keys.rotate(tx, key_id, project=_reach(caller), overlap_seconds=overlap_seconds)
        audit.note(
            tx,
            caller=caller,
            action="key.rotate",
            target=key_id,
            project=issued.key.project,
            new_key_id=issued.key.id,
            overlap_seconds=overlap_seconds,
        )
    return _told(issued)


@router.delete("/keys/{key_id}", status_code=204, responses=problems.responses(404))
def revoke_key(caller: Admin, service: Service, key_id: _KeyId) -> None:
    """Revoke a key. It works for two seconds more at most, and stays in the list."""
    with service.database.transaction() as tx:
        revoked = keys.revoke(tx, key_id, project=_reach(caller))
        audit.note(tx, caller=caller, action="key.revoke", target=key_id, project=revoked.project)


def _told(issued: IssuedKey) -> NewKey:
    return NewKey(**Key.model_validate(issued.key).model_dump(), secret=issued.secret)


def _reach(caller: Caller) -> str | None:
    """Return the project whose keys a caller reaches, or None for all."""
    return None if caller.is_operator else caller.project


def _check_operator(caller: Caller, project: str | None, param: str) -> None:
    if project not in (None, caller.project) and not caller.is_operator:
        raise Forbidden(
            "other projects' keys are the operators' to manage.",
            hint=f"Leave {param} out.",
            param=param,
        )
