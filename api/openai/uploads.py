"""`/v1/uploads`: files that come in parts."""

import hashlib
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi import Path as InPath
from fastapi.concurrency import run_in_threadpool

from api import openapi
from api import uploads as forms
from api.access import Caller, Submitter
from api.bodies import JsonBody
from api.dependencies import Service
from api.joining import discard, join
from api.keeping import committed
from api.openai import schemas
from api.openai.bodies import CompletionOfUpload, UploadBody, parsed
from api.openai.files import keep_file
from api.openai.files import shown as shown_file
from api.openai.naming import seconds
from api.openai_errors import responses as errors
from api.reading import RowReaders
from jobs.backends import Backends
from jobs.identifiers import new_id
from jobs.records import File, Upload, UploadPart
from jobs.store import audit, quotas, uploads
from jobs.submission import check_said
from jobs.transaction import Transaction
from trainer_core.errors import FieldProblem, InvalidSpec

router = APIRouter()

UploadId = Annotated[
    str, InPath(description="Id of the upload, such as `upload_01k9…`.", max_length=100)
]
MAX_UPLOAD_BYTES = 8 << 30
MAX_PART_BYTES = 64 << 20
_PART = "data"
_PART_FORM = {
    "schema": {
        "type": "object",
        "required": [_PART],
        "properties": {_PART: {"type": "string", "format": "binary"}},
    }
}


@router.post(
    "/uploads",
    openapi_extra=openapi.body({"schema": openapi.schema_of(UploadBody)}),
    responses=errors(413, 415),
)
def create_openai_upload(
    caller: Submitter, service: Service, body: JsonBody
) -> schemas.OpenAIUpload:
    """Announce a file that comes in parts. They have an hour."""
    new = parsed(UploadBody, body)
    most = min(MAX_UPLOAD_BYTES, service.settings.max_upload_bytes)
    if new.bytes > most:
        raise InvalidSpec(
            [FieldProblem("/bytes", f"should be at most {most:,}; got {new.bytes:,}")]
        )
    values = {
        "project": caller.project,
        "purpose": new.purpose,
        "name": forms.shown_name(new.filename),
        "mime_type": new.mime_type,
        "size_bytes": new.bytes,
        "file_expires_seconds": new.expires_after.seconds if new.expires_after else None,
    }
    with service.database.transaction() as tx:
        said = {"filename": new.filename}
        check_said(tx, said, project=caller.project, settings=service.settings)
        upload = uploads.create(tx, values)
        announced = uploads.bytes_announced(tx, caller.project)
        quotas.check_storage(tx, caller.project, num_bytes=announced)
        audit.note(tx, caller=caller, action="upload.create", target=upload.id, name=upload.name)
        return _shown(upload)


@router.post(
    "/uploads/{upload_id}/parts",
    openapi_extra=openapi.body(_PART_FORM, media_type="multipart/form-data"),
    responses=errors(404, 409, 413, 415, 507),
)
async def add_openai_upload_part(
    request: Request, caller: Submitter, service: Service, upload_id: UploadId
) -> schemas.UploadPart:
    """Send a part of at most 64 MiB. Parts may come in any order."""
    check = partial(_check_open, service, upload_id, project=caller.project)
    await run_in_threadpool(check)  # before it is received in vain
    async with forms.received(
        request,
        folder=service.settings.home / forms.FOLDER,
        max_bytes=MAX_PART_BYTES,
        name=_PART,
    ) as part:
        keep = partial(_keep_part, service, part.path, upload_id, project=caller.project)
        kept = await run_in_threadpool(keep)
    created_at = seconds(kept.created_at)
    return schemas.UploadPart(id=kept.id, created_at=created_at, upload_id=upload_id)


@router.post(
    "/uploads/{upload_id}/complete",
    openapi_extra=openapi.body({"schema": openapi.schema_of(CompletionOfUpload)}),
    responses=errors(404, 409, 413, 415, 503, 507),
)
async def complete_openai_upload(
    caller: Submitter, service: Service, readers: RowReaders, upload_id: UploadId, body: JsonBody
) -> schemas.OpenAIUpload:
    """Make the file of its parts, in the order given. Together they have the bytes announced."""
    asked = parsed(CompletionOfUpload, body)
    complete = partial(_complete, service, caller, upload_id, asked)
    upload, file = await readers.run(complete)
    return _shown(upload, file=shown_file(file))


@router.post("/uploads/{upload_id}/cancel", responses=errors(404, 409))
def cancel_openai_upload(
    caller: Submitter, service: Service, upload_id: UploadId
) -> schemas.OpenAIUpload:
    """Drop an upload and its parts."""
    with service.database.transaction() as tx:
        uploads.get_pending(tx, upload_id, project=caller.project)
        keys = uploads.take_parts(tx, upload_id)
        upload = uploads.end(tx, upload_id, state="cancelled")
        audit.note(tx, caller=caller, action="upload.cancel", target=upload_id)
    discard(service, keys)
    return _shown(upload)


def _check_open(service: Backends, upload_id: str, *, project: str) -> None:
    with service.database.transaction() as tx:
        uploads.get_pending(tx, upload_id, project=project)


def _keep_part(service: Backends, path: Path, upload_id: str, *, project: str) -> UploadPart:
    key = f"uploads/{upload_id}/{new_id('part')}"
    size = service.storage.put(key, path).size_bytes

    def add(tx: Transaction) -> UploadPart:
        upload = uploads.get_pending(tx, upload_id, project=project)
        total = uploads.size_of_parts(tx, upload_id) + size
        if total > upload.size_bytes:
            message = f"makes {total:,} bytes, of {upload.size_bytes:,} announced"
            raise InvalidSpec([FieldProblem(f"/{_PART}", message)])
        return uploads.add_part(tx, upload_id, key=key, size_bytes=size)

    return committed(service, key, add)


def _complete(
    service: Backends, caller: Caller, upload_id: str, asked: CompletionOfUpload
) -> tuple[Upload, File]:
    with service.database.transaction() as tx:
        upload = uploads.get_pending(tx, upload_id, project=caller.project)
        parts = uploads.parts_of(tx, upload, asked.part_ids)
    keys: list[str] = []

    def end(tx: Transaction, file: File) -> tuple[Upload, File]:
        uploads.get_pending(tx, upload_id, project=caller.project)  # nobody has ended it meanwhile
        keys.extend(uploads.take_parts(tx, upload_id))
        return uploads.end(tx, upload_id, state="completed", file_id=file.id), file

    folder = service.settings.home / forms.FOLDER
    with forms.disk_full(), tempfile.NamedTemporaryFile(dir=folder) as whole:
        digest = hashlib.md5(usedforsecurity=False)
        join(service, parts, whole, digest=digest)
        if asked.md5 is not None and asked.md5.lower() != (md5 := digest.hexdigest()):
            raise InvalidSpec([FieldProblem("/md5", f"is not that of the parts, {md5}")])
        made = keep_file(
            service,
            Path(whole.name),
            caller=caller,
            name=upload.name,
            purpose=upload.purpose,
            expires_seconds=upload.file_expires_seconds,
            and_then=end,
        )
    discard(service, keys)
    return made


def _shown(upload: Upload, *, file: schemas.File | None = None) -> schemas.OpenAIUpload:
    return schemas.OpenAIUpload.model_validate(
        {
            "id": upload.id,
            "bytes": upload.size_bytes,
            "created_at": seconds(upload.created_at),
            "expires_at": seconds(upload.expires_at),
            "filename": upload.name,
            "purpose": upload.purpose,
            "mime_type": upload.mime_type,
            "status": upload.state,
            "file": file,
        }
    )
