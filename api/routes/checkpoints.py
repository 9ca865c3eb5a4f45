"""The checkpoints of a job that are in the storage."""

from typing import Annotated, Any

from fastapi import APIRouter, Query

from api import problems
from api.access import Reader
from api.dependencies import JobId, PageParameters, Service
from api.schemas import Schema, Timestamp
from jobs.records import Checkpoint as StoredCheckpoint
from jobs.store import checkpoints
from trainer_core.errors import CheckpointNotFound

router = APIRouter(tags=["models of jobs"])


class Checkpoint(Schema):
    """A checkpoint of a job that is in the storage."""

    id: str
    """`checkpoint-` and the step."""
    job_id: str
    attempt: int
    """The attempt that stored it."""
    step: int
    """Optimizer steps taken."""
    model: str
    """What to write as `model` in the spec of a job that is to start from its weights."""
    metrics: dict[str, float | None]
    """Of the evaluation after the step; empty if there was none."""
    is_best: bool
    """Whether it is the best one stored, by `evaluation.metric`."""
    size_bytes: int
    created_at: Timestamp


class CheckpointPage(Schema):
    """Checkpoints, the latest step first."""

    data: list[Checkpoint]
    has_more: bool


@router.get("/jobs/{job_id}/checkpoints", responses=problems.responses(404, 422))
def list_checkpoints(
    caller: Reader,
    service: Service,
    job_id: JobId,
    parameters: Annotated[PageParameters, Query()],
) -> CheckpointPage:
    """List the checkpoints of a job that are in the storage, the latest step first.

    A job keeps its newest ones and the best (`checkpoints.keep`). After its end they stay for
    a time that the operator sets, seven days by default.
    """
    with service.database.transaction() as tx:
        stored = checkpoints.of_job(tx, job_id, project=caller.project)
    best = next((one.step for one in stored if one.is_best), None)
    found = [_shown(one, is_best=one.step == best) for one in _after(stored, parameters.after)]
    limit = parameters.limit
    return CheckpointPage(data=found[:limit], has_more=len(found) > limit)


def _after(stored: list[StoredCheckpoint], cursor: str | None) -> list[StoredCheckpoint]:
    """Return the checkpoints before a step, which may itself have been removed meanwhile."""
    if cursor is None:
        return stored
    name, _, step = cursor.rpartition("-")
    if name != "checkpoint" or not (step.isascii() and step.isdecimal()):
        raise CheckpointNotFound(
            f"'{cursor}' is no id of a checkpoint.", hint="Write checkpoint-N.", param="after"
        )
    return [one for one in stored if one.step < int(step)]


def _shown(one: StoredCheckpoint, *, is_best: bool) -> Checkpoint:
    values: dict[str, Any] = {
        name: getattr(one, name)
        for name in ("job_id", "attempt", "step", "metrics", "size_bytes", "created_at")
    }
    model = f"job:{one.job_id}/{one.name}"
    return Checkpoint(id=one.name, model=model, is_best=is_best, **values)
