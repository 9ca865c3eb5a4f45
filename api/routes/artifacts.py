"""Downloading what a job made. A path is looked up in the table of files and never opened."""

from fastapi import APIRouter, Request, Response

from api.access import Caller, Reader
from api.dependencies import JobId, Service
from api.downloads import FILE_RESPONSES, TAR_RESPONSES, file_response, tar_response
from jobs.backends import Backends
from jobs.records import Artifact
from jobs.store import artifacts, jobs
from jobs.transaction import Transaction
from trainer_core.errors import ModelNotReady

router = APIRouter(tags=["models of jobs"])


@router.get("/jobs/{job_id}/model", response_class=Response, responses=TAR_RESPONSES)
def download_model(caller: Reader, service: Service, job_id: JobId) -> Response:
    """Download the finished model as one tar, in a folder `model/`."""
    with service.database.transaction() as tx:
        files = _files(tx, caller, job_id)
    return tar_response(service.storage, files, name=job_id)


@router.get("/jobs/{job_id}/model/{path:path}", response_class=Response, responses=FILE_RESPONSES)
def download_model_file(
    request: Request, caller: Reader, service: Service, job_id: JobId, path: str
) -> Response:
    """Download one file of the finished model, or a range of it.

    `ETag` is the SHA-256 of the file in hex, and `Repr-Digest` the same as RFC 9530 has it.
    """
    return file_response(request, service.storage, _file(service, caller, job_id, path))


@router.head("/jobs/{job_id}/model/{path:path}", response_class=Response, responses=FILE_RESPONSES)
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
