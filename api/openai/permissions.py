"""`/v1/fine_tuning/checkpoints/…/permissions`: which other projects may use a model."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from fastapi import Path as InPath

from api import openapi
from api.access import Admin, Caller
from api.bodies import JsonBody
from api.dependencies import Cursor, Parameters, Service
from api.openai import schemas
from api.openai.bodies import PermissionBody, parsed
from api.openai.naming import checkpoint_reference, seconds
from api.openai_errors import responses as errors
from jobs.records import Permission
from jobs.store import audit, jobs, permissions
from jobs.transaction import Transaction
from trainer_core.spec import Reference

router = APIRouter()

_PATH = "/fine_tuning/checkpoints/{checkpoint:path}/permissions"
CheckpointName = Annotated[
    str, InPath(description="An `ft:` name, of a model or of a checkpoint.", max_length=500)
]


class PermissionParameters(Parameters):
    """Which permissions to list."""

    after: Cursor = None
    limit: Annotated[int, Query(ge=1, le=100)] = 10
    order: Literal["ascending", "descending"] = "descending"
    project_id: Annotated[str | None, Query(max_length=100)] = None


@router.post(
    _PATH,
    openapi_extra=openapi.body({"schema": openapi.schema_of(PermissionBody)}),
    responses=errors(404, 413, 415),
)
def create_checkpoint_permissions(
    caller: Admin, service: Service, checkpoint: CheckpointName, body: JsonBody
) -> schemas.List[schemas.Permission]:
    """Let other projects begin jobs with a model of this one, and try it."""
    grantees = parsed(PermissionBody, body).project_ids
    with service.database.transaction() as tx:
        of = _own(tx, checkpoint, caller)
        granted = permissions.grant(tx, of.name, step=of.checkpoint, grantees=grantees)
        _note(tx, caller, "permission.create", of, grantees=[one.grantee for one in granted])
    return schemas.page_of([_shown(one) for one in granted], limit=len(granted))


@router.get(_PATH, responses=errors(404))
def list_checkpoint_permissions(
    caller: Admin,
    service: Service,
    checkpoint: CheckpointName,
    parameters: Annotated[PermissionParameters, Query()],
) -> schemas.List[schemas.Permission]:
    """List who may use a model besides its own project."""
    with service.database.transaction() as tx:
        of = _own(tx, checkpoint, caller)
        found = permissions.page(
            tx,
            of.name,
            step=of.checkpoint,
            grantee=parameters.project_id,
            after=parameters.after,
            limit=parameters.limit + 1,
            is_newest_first=parameters.order == "descending",
        )
    return schemas.page_of([_shown(one) for one in found], limit=parameters.limit)


@router.delete(_PATH + "/{permission_id}", responses=errors(404))
def delete_checkpoint_permission(
    caller: Admin, service: Service, checkpoint: CheckpointName, permission_id: str
) -> schemas.Deleted:
    """Take a permission back. Jobs that have begun go on."""
    with service.database.transaction() as tx:
        of = _own(tx, checkpoint, caller)
        taken = permissions.revoke(tx, permission_id, job_id=of.name, step=of.checkpoint)
        _note(tx, caller, "permission.delete", of, grantees=[taken.grantee])
    return schemas.Deleted(id=permission_id, object="checkpoint.permission")


def _own(tx: Transaction, checkpoint: str, caller: Caller) -> Reference:
    of = checkpoint_reference(checkpoint)
    jobs.get(tx, of.name, project=caller.project)
    return of


def _note(
    tx: Transaction, caller: Caller, action: str, of: Reference, *, grantees: list[str]
) -> None:
    audit.note(
        tx, caller=caller, action=action, target=of.name, step=of.checkpoint, grantees=grantees
    )


def _shown(permission: Permission) -> schemas.Permission:
    return schemas.Permission(
        id=permission.id,
        created_at=seconds(permission.created_at),
        project_id=permission.grantee,
    )
