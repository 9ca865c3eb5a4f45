"""What a project has at all of what a submission has to look at; most have none of it."""

from dataclasses import dataclass

from sqlalchemy import Select, Text, bindparam, or_, select

from jobs.tables import projects, secrets, webhooks
from jobs.transaction import Transaction


@dataclass(frozen=True, slots=True)
class Customs:
    """Whether there is anything of a kind; what there is, is looked up by whoever needs it."""

    has_secrets: bool
    has_quotas: bool
    has_webhooks: bool


def customs_of(tx: Transaction, project: str) -> Customs:
    """Return what a project has, in one statement."""
    row = tx.connection.execute(_CUSTOMS, {"wanted": project}).one()
    return Customs(has_secrets=row[0], has_quotas=row[1], has_webhooks=row[2])


def _make_customs() -> Select[bool, bool, bool]:
    project = bindparam("wanted", type_=Text)
    limits = (
        projects.c.max_queued_jobs,
        projects.c.max_device_hours,
        projects.c.max_storage_bytes,
    )
    is_limited = or_(*(limit.is_not(None) for limit in limits))
    return select(
        select(secrets.c.name).where(secrets.c.project == project).exists(),
        select(projects.c.name).where(projects.c.name == project, is_limited).exists(),
        select(webhooks.c.id).where(webhooks.c.project == project).exists(),
    )


_CUSTOMS = _make_customs()
