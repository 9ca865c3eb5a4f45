"""The workers that are there."""

from typing import Annotated

from fastapi import APIRouter, Query

from api import problems
from api.access import Reader
from api.dependencies import PageParameters, Service
from api.schemas import Schema, Timestamp
from jobs.store import workers

router = APIRouter(tags=["workers"])


class WorkerDevice(Schema):
    """What a worker trains on."""

    name: str
    """As LUTHIER_DEVICES names it."""
    kind: str
    """cpu, cuda or mps."""
    model: str
    """What its maker calls it."""
    memory_bytes: int | None
    """Null where nobody tells."""


class Worker(Schema):
    """A worker that was heard of within a minute."""

    name: str
    num_slots: int
    """Jobs that it runs at once."""
    devices: list[WorkerDevice]
    started_at: Timestamp
    seen_at: Timestamp


class WorkerPage(Schema):
    """Workers, by name."""

    data: list[Worker]
    has_more: bool


@router.get("/workers", responses=problems.responses(422))
def list_workers(
    caller: Reader,  # noqa: ARG001 - who may read may know
    service: Service,
    parameters: Annotated[PageParameters, Query()],
) -> WorkerPage:
    """List the workers that are there, by name, with what they train on."""
    limit = parameters.limit
    with service.database.transaction() as tx:
        found = workers.present(tx, after=parameters.after, limit=limit + 1)
    return WorkerPage(
        data=[Worker.model_validate(worker) for worker in found[:limit]],
        has_more=len(found) > limit,
    )
