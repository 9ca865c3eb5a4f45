"""Downloading what a job made. A path is looked up in the table of files and never opened."""

from typing import Any

from fastapi import APIRouter, Request, Response

from api import problems
from api.access import Caller, Reader
from api.archives import tar_chunks, tar_size
from api.dependencies import JobId, Service
from api.downloads import attachment, file_response, stream
from jobs.backends import Backends
from jobs.records import Artifact
from jobs.store import artifacts, jobs
from jobs.transaction import Transaction
from trainer_core.errors import ModelNotReady

router = APIRouter(tags=["models of jobs"])

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FILE_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": _BINARY}},
    206: {
        "description": "The range asked for",
        "content": {"application/octet-stream": _BINARY},
    },
    304: {"description": "The file is the one that the client has"},
    416: {"description": "The range starts after the end of the file"},
    **problems.responses(404, 409, 503),
}


@router.get(
    "/jobs/{job_id}/model",
    response_class=Response,
    responses={
        200: {"content": {"application/x-tar": _BINARY}},
        **problems.responses(404, 409, 503),
    },
)
def download_model(caller: Reader, service: Service, job_id: JobId) -> Response:
    """Download the finished model as one tar, in a folder `model/`."""
    with service.database.transaction() as tx:
        files = _files(tx, caller, job_id)
    return stream(
        tar_chunks(service.storage, files),
        headers={
            "Content-Length": str(tar_size(files)),
            "Content-Disposition": attachment(f"{job_id}.tar"),
        },
        media_type="application/x-tar",
    )


@router.get("/jobs/{job_id}/model/{path:path}", response_class=Response, responses=_FILE_RESPONSES)
def download_model_file(
    request: Request, caller: Reader, service: Service, job_id: JobId, path: str
) -> Response:
    """Download one file of the finished model, or a range of it.

    `ETag` is the SHA-256 of the file in hex, and `Repr-Digest` the same as RFC 9530 has it.
    """
    return file_response(request, service.storage, _file(service, caller, job_id, path))


@router.head("/jobs/{job_id}/model/{path:path}", response_class=Response, responses=_FILE_RESPONSES)
def inspect_model_file(
    request: Request, caller: Reader, service: Service, job_id: JobId, path: str
) -> Response:
    """Return the size and the digests of one file of the finished model."""
    return file_response(request, service.storage, _file(service, caller, job_id, path))


def _file(service: Backends, caller: Caller, job_id: str, path: str) -> Artifact:
    with service.database.transaction() as tx:
        _files(tx, caller, job_id)
        return artifacts.get(tx, job_id, path)


def _files(tx: Transaction, caller: Caller, job_id: str) -> list[Artifact]:
    job = jobs.get(tx, job_id, project=caller.project)
    files = artifacts.of_job(tx, job_id)
    if not files:
        raise ModelNotReady(
            f"job {job_id} is {job.state} and has no model.",
            hint=f"Follow GET /jobs/{job_id}/events until it has succeeded.",
            detail={"state": job.state},
        )
    return files
