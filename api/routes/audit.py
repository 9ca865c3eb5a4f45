"""The audit log."""

from typing import Annotated

from fastapi import APIRouter, Query

from api import problems
from api.access import Admin
from api.access_schemas import AuditEntry, AuditPage
from api.dependencies import PageParameters, Service
from api.routes.projects import ProjectName
from jobs.store import audit
from trainer_core.errors import Forbidden

router = APIRouter(tags=["audit"])


class AuditParameters(PageParameters):
    """Whose log to read."""

    project: Annotated[
        ProjectName | None, Query(description="Of another project, for operators.")
    ] = None


@router.get("/audit", responses=problems.responses(422))
def list_audit(
    caller: Admin, service: Service, parameters: Annotated[AuditParameters, Query()]
) -> AuditPage:
    """List who changed what, newest first. Reading is not in it."""
    if parameters.project not in (None, caller.project) and not caller.is_operator:
        raise Forbidden("other projects' logs are the operators' to read.", param="project")
    project, limit = parameters.project or caller.project, parameters.limit
    with service.database.transaction() as tx:
        found = audit.page(tx, project=project, after=parameters.after, limit=limit + 1)
    return AuditPage(
        data=[AuditEntry.model_validate(entry) for entry in found[:limit]],
        has_more=len(found) > limit,
    )
