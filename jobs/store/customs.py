"""What a project has at all of what a submission has to look at; most have none of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, Text, bindparam, func, literal, or_, select, true
from sqlalchemy.dialects.postgresql import ARRAY

from jobs.records import Dataset
from jobs.tables import datasets, projects, secrets, webhooks
from jobs.transaction import Transaction


@dataclass(frozen=True, slots=True)
class Customs:
    """Whether there is anything of a kind; what there is, is looked up by whoever needs it."""

    has_secrets: bool
    has_quotas: bool
    has_webhooks: bool


def customs_of(tx: Transaction, project: str) -> Customs:
    """Return what a project has, in one statement."""
    return customs_and_datasets(tx, project, [])[0]


def customs_and_datasets(
    tx: Transaction, project: str, dataset_ids: Sequence[str]
) -> tuple[Customs, dict[str, Dataset]]:
    """Return what a project has, and those of some data sets that are its own, in one statement.

    The data sets are kept from being deleted until the commit.
    """
    values = {"wanted": project, "wanted_ids": list(dataset_ids)}
    rows = tx.connection.execute(_CUSTOMS, values).all()
    has_secrets, has_quotas, has_webhooks, *_ = rows[0]
    customs = Customs(has_secrets=has_secrets, has_quotas=has_quotas, has_webhooks=has_webhooks)
    found = (Dataset(*columns) for _, _, _, *columns in rows if columns[0] is not None)
    return customs, {dataset.id: dataset for dataset in found}


def _make_customs() -> Select[Any]:
    project = bindparam("wanted", type_=Text)
    limits = (
        projects.c.max_queued_jobs,
        projects.c.max_device_hours,
        projects.c.max_storage_bytes,
    )
    is_limited = or_(*(limit.is_not(None) for limit in limits))
    held = (
        select(*(datasets.c[name] for name in Dataset.__dataclass_fields__))
        .where(
            datasets.c.id == func.any(bindparam("wanted_ids", type_=ARRAY(Text))),
            datasets.c.project == project,
        )
        .order_by(datasets.c.id)
        .with_for_update(read=True)
        .cte("held")
    )
    one = select(literal(1)).subquery()  # a row, whether a data set is found or not
    return select(
        select(secrets.c.name).where(secrets.c.project == project).exists(),
        select(projects.c.name).where(projects.c.name == project, is_limited).exists(),
        select(webhooks.c.id).where(webhooks.c.project == project).exists(),
        held,
    ).select_from(one.outerjoin(held, true()))


_CUSTOMS = _make_customs()
