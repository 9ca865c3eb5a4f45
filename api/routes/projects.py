"""Projects: the service's tenants, their quotas, and what they use."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import Field

from api import openapi, problems
from api.access import Caller, Operator, Reader
from api.access_schemas import Project, ProjectDetail, ProjectPage, Use
from api.bodies import JsonBody, parsed
from api.dependencies import PageParameters, Service
from api.idempotency import NotIdempotent
from jobs.store import audit, projects, quotas
from jobs.transaction import Transaction
from trainer_core.errors import ProjectNotFound
from trainer_core.spec.base import SpecModel

router = APIRouter(tags=["projects"])

ProjectName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
_Count = Annotated[int, Field(ge=0, le=2**31 - 1)]


class Quotas(SpecModel):
    """What a project may use; null for no limit."""

    max_queued_jobs: _Count | None = None
    """Jobs that wait."""
    max_running_jobs: _Count | None = None
    """Jobs that run at once; further ones wait."""
    max_device_hours: Annotated[float, Field(ge=0, le=1e9)] | None = None
    """Hours of devices in a calendar month (UTC)."""
    max_storage_bytes: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None
    """Bytes of data sets, other files, models and checkpoints."""


class NewProject(Quotas):
    """A project to make."""

    name: ProjectName
    """Name: lower-case letters, digits and dashes, up to 63."""


@router.post(
    "/projects",
    status_code=201,
    responses=problems.responses(400, 409, 413, 415, 422),
    openapi_extra=openapi.body(
        {
            "schema": NewProject.model_json_schema(),
            "examples": {"team": {"value": {"name": "vision", "max_running_jobs": 2}}},
        }
    ),
)
def create_project(
    caller: Operator, service: Service, body: JsonBody, response: Response, _once: NotIdempotent
) -> Project:
    """Make a project. Only the service's operators may: admins of the default project."""
    wanted = parsed(body, NewProject)
    given = wanted.model_dump(exclude={"name"})
    with service.database.transaction() as tx:
        project = projects.create(tx, wanted.name, quotas=given)
        audit.note(tx, caller=caller, action="project.create", target=project.name, **given)
    response.headers["Location"] = f"/projects/{project.name}"
    return Project.model_validate(project)


@router.get("/projects", responses=problems.responses(422))
def list_projects(
    caller: Operator,  # noqa: ARG001 - it has to be one
    service: Service,
    parameters: Annotated[PageParameters, Query()],
) -> ProjectPage:
    """List projects by name. Only the service's operators may."""
    limit = parameters.limit
    with service.database.transaction() as tx:
        found = projects.page(tx, after=parameters.after, limit=limit + 1)
    return ProjectPage(
        data=[Project.model_validate(project) for project in found[:limit]],
        has_more=len(found) > limit,
    )


@router.get("/projects/{name}", responses=problems.responses(404))
def get_project(caller: Reader, service: Service, name: str) -> ProjectDetail:
    """Return a project's quotas and what it uses: your own, or any for an operator."""
    with service.database.transaction() as tx:
        return _detail(tx, caller, name)


@router.patch(
    "/projects/{name}",
    responses=problems.responses(400, 404, 413, 415, 422),
    openapi_extra=openapi.body(
        {
            "schema": Quotas.model_json_schema(),
            "examples": {"fewer": {"value": {"max_queued_jobs": 10, "max_device_hours": None}}},
        }
    ),
)
def change_project(caller: Operator, service: Service, name: str, body: JsonBody) -> ProjectDetail:
    """Set quotas, those that are given; null takes one away. Only operators may.

    What runs already is left alone.
    """
    given = parsed(body, Quotas).model_dump(exclude_unset=True)
    with service.database.transaction() as tx:
        projects.change(tx, name, quotas=given)
        audit.note(tx, caller=caller, action="project.change", target=name, **given)
        return _detail(tx, caller, name)


def _detail(tx: Transaction, caller: Caller, name: str) -> ProjectDetail:
    if name != caller.project and not caller.is_operator:
        raise ProjectNotFound(f"there is no project '{name[:100]}'.", param="project")
    project = projects.get(tx, name)
    use = Use.model_validate(quotas.use_of(tx, name))
    return ProjectDetail(**Project.model_validate(project).model_dump(), use=use)
