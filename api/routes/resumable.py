"""Data sets in parts: a part that was lost is sent again, and an upload that broke goes on."""

import hashlib
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Request, Response
from fastapi import Path as InPath
from fastapi.concurrency import run_in_threadpool
from pydantic import Field, StringConstraints

from api import openapi, problems
from api import uploads as forms
from api.access import Caller, Reader, Submitter
from api.bodies import JsonBody, parsed, too_large
from api.dataset_schemas import Dataset, Upload, UploadedPart
from api.dependencies import Service
from api.joining import discard, join
from api.keeping import committed, keep_dataset
from api.reading import RowReaders
from jobs.backends import Backends
from jobs.identifiers import new_id
from jobs.records import Dataset as StoredDataset
from jobs.records import Upload as StoredUpload
from jobs.records import UploadPart
from jobs.store import audit, datasets, quotas, resumable, uploads
from jobs.submission import check_said
from jobs.transaction import Transaction
from trainer_core.errors import DataChanged, IllegalTransition
from trainer_core.spec.base import SpecModel, Text

router = APIRouter(tags=["datasets"])

MAX_PART_BYTES = 64 << 20
MAX_PARTS = 10_000
_PART = "data"
_PART_FORM = {
    "schema": {
        "type": "object",
        "required": [_PART],
        "properties": {_PART: {"type": "string", "format": "binary"}},
    }
}
_UploadId = Annotated[
    str, InPath(description="Id of the upload, such as `upload_01k9…`.", max_length=100)
]
_Number = Annotated[int, InPath(description="Place of the part, from 1.", ge=1, le=MAX_PARTS)]


class Announcement(SpecModel):
    """A file that is to come in parts."""

    name: Annotated[Text, StringConstraints(min_length=1, max_length=255)]
    """As its owner calls it."""
    size_bytes: Annotated[int, Field(ge=1)]
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
    """Of the whole file, in hex."""
    has_header: bool = True
    """CSV and TSV: the first record names the columns."""


@router.post(
    "/uploads",
    status_code=201,
    responses={
        200: {"description": "It is begun already.", "model": Upload},
        **problems.responses(400, 413, 415, 422, 429),
    },
    openapi_extra=openapi.body(
        {
            "schema": Announcement.model_json_schema(),
            "examples": {
                "rows": {"value": {"name": "train.csv", "size_bytes": 9, "sha256": "0" * 64}}
            },
        }
    ),
)
def begin_upload(caller: Submitter, service: Service, body: JsonBody, response: Response) -> Upload:
    """Announce a file of rows that comes in parts. They have a day from the latest one on.

    Announced again, it is the same upload, and its `parts` are those that need not be sent.
    """
    wanted = parsed(body, Announcement)
    most = service.settings.max_upload_bytes
    if wanted.size_bytes > most:
        raise too_large(most)
    values = {**wanted.model_dump(), "name": forms.shown_name(wanted.name)}
    with service.database.transaction() as tx:
        said = {"name": wanted.name}
        check_said(tx, said, project=caller.project, settings=service.settings)
        upload, is_new = resumable.begin(tx, project=caller.project, **values)
        if is_new:
            announced = uploads.bytes_announced(tx, caller.project)
            quotas.check_storage(tx, caller.project, num_bytes=announced)
            audit.note(
                tx, caller=caller, action="upload.create", target=upload.id, name=upload.name
            )
        parts = resumable.parts_of(tx, upload.id)
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"/uploads/{upload.id}"
    return Upload.of(upload, parts)


@router.get("/uploads/{upload_id}", responses=problems.responses(404))
def get_upload(caller: Reader, service: Service, upload_id: _UploadId) -> Upload:
    """Return an upload with the parts that have come; once it is completed, with its data set."""
    with service.database.transaction() as tx:
        upload = resumable.get(tx, upload_id, project=caller.project)
        return Upload.of(upload, resumable.parts_of(tx, upload.id))


@router.put(
    "/uploads/{upload_id}/parts/{number}",
    responses=problems.responses(400, 404, 409, 413, 415, 422, 503, 507),
    openapi_extra=openapi.body(_PART_FORM, media_type="multipart/form-data"),
)
async def put_upload_part(
    request: Request, caller: Submitter, service: Service, upload_id: _UploadId, number: _Number
) -> UploadedPart:
    """Send a part of at most 64 MiB, in any order. One that is sent again takes its own place.

    The SHA-256 in the answer is that of what has arrived.
    """
    check = partial(_check_open, service, upload_id, project=caller.project)
    await run_in_threadpool(check)  # before it is received in vain
    async with forms.received(
        request,
        folder=service.settings.home / forms.FOLDER,
        max_bytes=MAX_PART_BYTES,
        name=_PART,
    ) as part:
        keep = partial(_keep_part, service, part.path, upload_id, number, project=caller.project)
        return UploadedPart.model_validate(await run_in_threadpool(keep))


@router.post(
    "/uploads/{upload_id}/complete",
    status_code=201,
    responses=problems.responses(404, 409, 422, 503, 507),
)
async def complete_upload(
    caller: Submitter,
    service: Service,
    readers: RowReaders,
    upload_id: _UploadId,
    response: Response,
) -> Dataset:
    """Make the data set of the parts. Asked again, it is the same data set."""
    complete = partial(_complete, service, caller, upload_id)
    dataset = await readers.run(complete)
    response.headers["Location"] = f"/datasets/{dataset.id}"
    return dataset


@router.delete("/uploads/{upload_id}", status_code=204, responses=problems.responses(404, 409))
def cancel_upload(caller: Submitter, service: Service, upload_id: _UploadId) -> None:
    """Drop an upload and its parts."""
    _drop(service, caller, upload_id)


def _check_open(service: Backends, upload_id: str, *, project: str) -> None:
    with service.database.transaction() as tx:
        resumable.get_open(tx, upload_id, project=project)


def _keep_part(
    service: Backends, path: Path, upload_id: str, number: int, *, project: str
) -> UploadPart:
    key = f"uploads/{upload_id}/{new_id('part')}"
    stored = service.storage.put(key, path)

    def put(tx: Transaction) -> tuple[UploadPart, str | None]:
        upload = resumable.get_open(tx, upload_id, project=project)
        return resumable.put_part(
            tx, upload, number, key=key, size_bytes=stored.size_bytes, sha256=stored.sha256
        )

    part, replaced = committed(service, key, put)
    discard(service, [replaced] if replaced else [])
    return part


def _complete(service: Backends, caller: Caller, upload_id: str) -> Dataset:
    with service.database.transaction() as tx:
        upload = resumable.get(tx, upload_id, project=caller.project)
        if upload.state == "completed":
            return _made(tx, upload)
        upload = resumable.get_open(tx, upload_id, project=caller.project)
        parts = resumable.parts_of(tx, upload.id)
    resumable.check_whole(upload, parts)
    folder = service.settings.home / forms.FOLDER
    with forms.disk_full(), tempfile.NamedTemporaryFile(dir=folder) as whole:
        digest = hashlib.sha256()
        join(service, parts, whole, digest=digest)
        if (sha256 := digest.hexdigest()) != upload.sha256:
            _drop(service, caller, upload_id)
            raise DataChanged(
                f"the parts of {upload.name} have the SHA-256 {sha256} together; "
                f"{upload.sha256} was announced.",
                hint="Was the file changed meanwhile? Upload it again.",
            )
        return _kept(service, caller, upload, Path(whole.name))


def _kept(service: Backends, caller: Caller, upload: StoredUpload, path: Path) -> Dataset:
    """Return the data set of an upload: a new one, unless somebody has completed it meanwhile."""
    keys: list[str] = []

    def and_then(tx: Transaction, kept: StoredDataset) -> Dataset:
        resumable.get_open(tx, upload.id, project=caller.project)
        uploads.end(tx, upload.id, state="completed", file_id=kept.id)
        keys.extend(uploads.take_parts(tx, upload.id))
        audit.note(tx, caller=caller, action="dataset.create", target=kept.id, name=upload.name)
        return Dataset.of(kept)

    try:
        dataset = keep_dataset(
            service,
            path,
            project=caller.project,
            name=upload.name,
            has_header=bool(upload.has_header),
            and_then=and_then,
        )
    except IllegalTransition:
        with service.database.transaction() as tx:
            now = resumable.get(tx, upload.id, project=caller.project)
            if now.state != "completed":
                raise
            return _made(tx, now)
    discard(service, keys)
    return dataset


def _made(tx: Transaction, upload: StoredUpload) -> Dataset:
    assert upload.file_id is not None, "a completed upload has a data set"
    return Dataset.of(datasets.get(tx, upload.file_id, project=upload.project))


def _drop(service: Backends, caller: Caller, upload_id: str) -> None:
    with service.database.transaction() as tx:
        resumable.get_open(tx, upload_id, project=caller.project)
        keys = uploads.take_parts(tx, upload_id)
        uploads.end(tx, upload_id, state="cancelled")
        audit.note(tx, caller=caller, action="upload.cancel", target=upload_id)
    discard(service, keys)
