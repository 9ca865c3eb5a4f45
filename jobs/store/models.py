"""Registered base models."""

from pathlib import Path

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from jobs.records import Model
from jobs.tables import models
from jobs.transaction import Transaction
from trainer_core.errors import ModelNotFound, NameTaken
from trainer_core.spec import Reference, Scheme


def create(
    tx: Transaction,
    name: str,
    *,
    project: str,
    path: str | None,
    hub: str | None,
    revision: str | None,
) -> Model:
    """Keep a new model, from a folder or from a Hub repository, or raise NameTaken."""
    try:
        row = tx.connection.execute(
            insert(models)
            .values(project=project, name=name, path=path, hub=hub, revision=revision)
            .returning(models)
        ).one()
    except IntegrityError as error:
        raise NameTaken(
            f"there already is a model '{name}'.", hint="Choose another name.", param="name"
        ) from error
    return Model(**row._mapping)


def get(tx: Transaction, name: str, *, project: str) -> Model:
    """Return a registered model, or raise ModelNotFound."""
    row = tx.connection.execute(
        select(models).where(models.c.name == name, models.c.project == project)
    ).one_or_none()
    if row is None:
        raise ModelNotFound(
            f"there is no registered model '{name[:100]}'.",
            hint="GET /models lists them; `luthier models add` registers one.",
            param="model",
        )
    return Model(**row._mapping)


def source(tx: Transaction, model: Reference, *, project: str) -> Reference | Path:
    """Return where a base model is that no job has made: on the Hub, or in a folder."""
    if model.scheme is Scheme.HUB:
        return model
    registered = get(tx, model.name, project=project)
    if registered.hub is not None:
        return Reference(Scheme.HUB, registered.hub, registered.revision)
    assert registered.path is not None, f"model {registered.name} has no source"
    return Path(registered.path)


def page(tx: Transaction, *, project: str, after: str | None, limit: int) -> list[Model]:
    """Return up to `limit` models by name, after the model `after`."""
    statement = select(models).where(models.c.project == project)
    if after is not None:
        statement = statement.where(models.c.name > after)
    rows = tx.connection.execute(statement.order_by(models.c.name).limit(limit))
    return [Model(**row._mapping) for row in rows]
