"""Uploading, listing, previewing and deleting data sets."""

from functools import partial
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from api import openapi, problems, uploads
from api.access import Caller, Reader, Submitter
from api.dataset_schemas import Column, Dataset, DatasetPage, Preview
from api.dependencies import DatasetId, PageParameters, Parameters, Service
from api.joining import discard
from api.keeping import check_room, keep_dataset
from api.reading import RowReaders
from jobs.backends import Backends
from jobs.records import Dataset as StoredDataset
from jobs.store import audit, datasets
from jobs.transaction import Transaction

router = APIRouter(tags=["datasets"])

_UPLOAD = {
    "schema": {
        "type": "object",
        "required": [uploads.FIELD],
        "properties": {uploads.FIELD: {"type": "string", "format": "binary"}},
    }
}


class UploadParameters(Parameters):
    """How to read the file."""

    has_header: Annotated[
        bool, Query(description="CSV and TSV: the first record names the columns.")
    ] = True


@router.post(
    "/datasets",
    status_code=201,
    responses=problems.responses(400, 413, 415, 422, 503, 507),
    openapi_extra=openapi.body(_UPLOAD, media_type="multipart/form-data"),
)
async def upload_dataset(
    request: Request,
    caller: Submitter,
    service: Service,
    readers: RowReaders,
    parameters: Annotated[UploadParameters, Query()],
    response: Response,
) -> Dataset:
    """Upload a file of rows: JSONL, JSON, CSV, TSV, CoNLL, Parquet or text, also .gz or .zst.

    What is in it shows from its content. Rows that can't be read are told with their places; the
    file is kept nevertheless, and whether a job may leave them out is said in its spec.
    """
    readers.check()  # before gigabytes are received in vain
    await run_in_threadpool(check_room, service, project=caller.project)
    settings = service.settings
    folder = settings.home / uploads.FOLDER
    async with uploads.received(
        request, folder=folder, max_bytes=settings.max_upload_bytes
    ) as upload:
        has_header = parameters.has_header
        kept = await readers.run(
            partial(_keep, service, caller, upload.path, name=upload.name, has_header=has_header)
        )
    response.headers["Location"] = f"/datasets/{kept.id}"
    return kept


@router.get("/datasets", responses=problems.responses(422))
def list_datasets(
    caller: Reader, service: Service, parameters: Annotated[PageParameters, Query()]
) -> DatasetPage:
    """List data sets, newest first."""
    limit = parameters.limit
    with service.database.transaction() as tx:
        found = datasets.page(tx, project=caller.project, after=parameters.after, limit=limit + 1)
    return DatasetPage(
        data=[Dataset.of(dataset) for dataset in found[:limit]], has_more=len(found) > limit
    )


@router.get("/datasets/{dataset_id}", responses=problems.responses(404))
def get_dataset(caller: Reader, service: Service, dataset_id: DatasetId) -> Dataset:
    """Return what is in a data set."""
    with service.database.transaction() as tx:
        return Dataset.of(datasets.get(tx, dataset_id, project=caller.project))


@router.get("/datasets/{dataset_id}/preview", responses=problems.responses(404))
def preview_dataset(caller: Reader, service: Service, dataset_id: DatasetId) -> Preview:
    """Return the first rows of a data set."""
    with service.database.transaction() as tx:
        found = datasets.get(tx, dataset_id, project=caller.project).description
    return Preview(
        columns=[Column.model_validate(column) for column in found["columns"]],
        rows=found["preview"],
    )


@router.delete("/datasets/{dataset_id}", status_code=204, responses=problems.responses(404, 409))
def delete_dataset(caller: Submitter, service: Service, dataset_id: DatasetId) -> None:
    """Delete a data set, unless a job that has not ended needs it."""
    with service.database.transaction() as tx:
        removed = datasets.remove(tx, dataset_id, project=caller.project)
        audit.note(tx, caller=caller, action="dataset.delete", target=dataset_id)
    discard(service, [removed.key])


def _keep(service: Backends, caller: Caller, path: Path, *, name: str, has_header: bool) -> Dataset:
    def and_then(tx: Transaction, kept: StoredDataset) -> Dataset:
        audit.note(tx, caller=caller, action="dataset.create", target=kept.id, name=name)
        return Dataset.of(kept)

    return keep_dataset(
        service,
        path,
        project=caller.project,
        name=name,
        has_header=has_header,
        and_then=and_then,
    )
