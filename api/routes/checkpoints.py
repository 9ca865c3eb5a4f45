"""The checkpoints of a job that are in the storage, and their models to download."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from api import problems
from api.access import Caller, Reader
from api.dependencies import CheckpointId, JobId, PageParameters, Service, step_of
from api.downloads import FILE_RESPONSES, TAR_RESPONSES, file_response, tar_response
from api.schemas import Artifact, Schema, Timestamp
from jobs.backends import Backends
from jobs.records import Artifact as StoredArtifact
from jobs.records import Checkpoint as StoredCheckpoint
from jobs.store import checkpoints
from trainer_core.errors import FileNotFound

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


class CheckpointDetail(Checkpoint):
    """A checkpoint with what can be downloaded of it."""

    artifacts: list[Artifact]
    """The files of its model. What else it has is there for the job to go on from."""


class CheckpointPage(Schema):
    """Checkpoints, the latest step first."""

    data: list[Checkpoint]
    has_more: bool


def _files(
    service: Backends, caller: Caller, job_id: str, checkpoint_id: str
) -> list[StoredArtifact]:
    step = step_of(checkpoint_id)
    with service.database.transaction() as tx:
        return checkpoints.get(tx, job_id, step, project=caller.project).artifacts


def _file(
    caller: Reader, service: Service, job_id: JobId, checkpoint_id: CheckpointId, path: str
) -> StoredArtifact:
    """Return the file with a path, which is compared and never opened."""
    files = _files(service, caller, job_id, checkpoint_id)
    found = next((file for file in files if file.path == path), None)
    if found is None:
        raise FileNotFound(
            f"the model of {checkpoint_id} has no file '{path[:200]}'.",
            hint="The checkpoint lists its files under `artifacts`.",
            param="path",
        )
    return found


_File = Annotated[StoredArtifact, Depends(_file)]


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


@router.get("/jobs/{job_id}/checkpoints/{checkpoint_id}", responses=problems.responses(404))
def get_checkpoint(
    caller: Reader, service: Service, job_id: JobId, checkpoint_id: CheckpointId
) -> CheckpointDetail:
    """Return a checkpoint with the files of its model."""
    step = step_of(checkpoint_id)
    with service.database.transaction() as tx:
        found = checkpoints.get(tx, job_id, step, project=caller.project)
        stored = checkpoints.of_any(tx, job_id)
    best = next((one.step for one in stored if one.is_best), None)
    values = _shown(found, is_best=step == best).model_dump()
    files = [Artifact.model_validate(file) for file in found.artifacts]
    return CheckpointDetail(**values, artifacts=files)


@router.get(
    "/jobs/{job_id}/checkpoints/{checkpoint_id}/model",
    response_class=Response,
    responses=TAR_RESPONSES,
)
def download_checkpoint(
    caller: Reader, service: Service, job_id: JobId, checkpoint_id: CheckpointId
) -> Response:
    """Download the model of a checkpoint as one tar, in a folder `model/`.

    Of a job that trains an adapter it is the adapter. A checkpoint may go while the job runs, when
    newer ones come: the download then ends early.
    """
    files = _files(service, caller, job_id, checkpoint_id)
    return tar_response(service.storage, files, name=f"{job_id}-{checkpoint_id}")


@router.get(
    "/jobs/{job_id}/checkpoints/{checkpoint_id}/model/{path:path}",
    response_class=Response,
    responses=FILE_RESPONSES,
)
def download_checkpoint_file(request: Request, file: _File, service: Service) -> Response:
    """Download one file of the model of a checkpoint, or a range of it.

    `ETag` is the SHA-256 of the file in hex, and `Repr-Digest` the same as RFC 9530 has it.
    """
    return file_response(request, service.storage, file)


@router.head(
    "/jobs/{job_id}/checkpoints/{checkpoint_id}/model/{path:path}",
    response_class=Response,
    responses=FILE_RESPONSES,
)
def inspect_checkpoint_file(request: Request, file: _File, service: Service) -> Response:
    """Return the size and the digests of one file of the model of a checkpoint."""
    return file_response(request, service.storage, file)


def _after(stored: list[StoredCheckpoint], cursor: str | None) -> list[StoredCheckpoint]:
    """Return the checkpoints before a step, which may itself have been removed meanwhile."""
    if cursor is None:
        return stored
    step = step_of(cursor, param="after")
    return [one for one in stored if one.step < step]


def _shown(one: StoredCheckpoint, *, is_best: bool) -> Checkpoint:
    values: dict[str, Any] = {
        name: getattr(one, name)
        for name in ("job_id", "attempt", "step", "metrics", "size_bytes", "created_at")
    }
    model = f"job:{one.job_id}/{one.name}"
    return Checkpoint(id=one.name, model=model, is_best=is_best, **values)
