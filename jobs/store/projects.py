"""Projects: the tenants of a service, and what they may use."""

from collections.abc import Mapping

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

from jobs.access_records import Project
from jobs.tables import projects
from jobs.transaction import Transaction
from trainer_core.errors import NameTaken, ProjectNotFound

QUOTAS = ("max_queued_jobs", "max_running_jobs", "max_device_hours", "max_storage_bytes")


def create(tx: Transaction, name: str, *, quotas: Mapping[str, float | None]) -> Project:
    """Keep a new project, or raise NameTaken."""
    assert quotas.keys() <= set(QUOTAS), quotas
    try:
        row = tx.connection.execute(
            insert(projects).values(name=name, **quotas).returning(projects)
        ).one()
    except IntegrityError as error:
        raise NameTaken(
            f"there already is a project '{name}'.", hint="Choose another name.", param="name"
        ) from error
    return Project(**row._mapping)


def get(tx: Transaction, name: str) -> Project:
    """Return a project, or raise ProjectNotFound."""
    row = tx.connection.execute(select(projects).where(projects.c.name == name)).one_or_none()
    if row is None:
        raise _not_found(name)
    return Project(**row._mapping)


def change(tx: Transaction, name: str, *, quotas: Mapping[str, float | None]) -> Project:
    """Set quotas, those that are given, and return the project, or raise ProjectNotFound."""
    assert quotas.keys() <= set(QUOTAS), quotas
    if not quotas:
        return get(tx, name)
    row = tx.connection.execute(
        update(projects).where(projects.c.name == name).values(**quotas).returning(projects)
    ).one_or_none()
    if row is None:
        raise _not_found(name)
    return Project(**row._mapping)


def page(tx: Transaction, *, after: str | None, limit: int) -> list[Project]:
    """Return up to `limit` projects by name, after the project `after`."""
    statement = select(projects)
    if after is not None:
        statement = statement.where(projects.c.name > after)
    rows = tx.connection.execute(statement.order_by(projects.c.name).limit(limit))
    return [Project(**row._mapping) for row in rows]


def _not_found(name: str) -> ProjectNotFound:
    return ProjectNotFound(
        f"there is no project '{name[:100]}'.",
        hint="`luthier projects ls` lists them; `luthier projects add` makes one.",
        param="project",
    )
