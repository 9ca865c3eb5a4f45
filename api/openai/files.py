"""`/v1/files`: data sets, figures of jobs, and files that nobody here reads."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as InPath
from fastapi.concurrency import run_in_threadpool
from pydantic import AfterValidator, Field

from api import openapi, uploads
from api.access import Caller, Reader, Submitter
from api.dependencies import Cursor, Parameters, Service
from api.downloads import attachment, stream
from api.joining import discard
from api.keeping import check_name, check_room, committed, keep_dataset
from api.openai import schemas
from api.openai.bodies import ExpiresAfter, Purpose, kept_purpose, parsed
from api.openai.naming import seconds
from api.openai_errors import responses as errors
from api.reading import RowReaders
from jobs.backends import Backends
from jobs.identifiers import new_id
from jobs.records import Dataset, File
from jobs.store import audit, datasets, files, results
from jobs.transaction import Transaction
from trainer_core.spec.base import SpecModel

router = APIRouter()

T = TypeVar("T")
FileId = Annotated[str, InPath(description="Id of the file, such as `file-01k9…`.", max_length=100)]
_TEXTS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")
_UPLOAD = {
    "schema": {
        "type": "object",
        "required": ["purpose", uploads.FIELD],
        "properties": {
            uploads.FIELD: {"type": "string", "format": "binary"},
            "purpose": {"type": "string"},
            "expires_after[anchor]": {"type": "string"},
            "expires_after[seconds]": {"type": "integer"},
        },
    }
}


class NewFile(SpecModel):
    """What comes with a file."""

    purpose: Purpose
    expires_after: ExpiresAfter | None = None


class FileParameters(Parameters):
    """Which files to list."""

    after: Cursor = None
    limit: Annotated[int, Query(description="How many to list.", ge=1, le=10_000)] = 10_000
    order: Literal["asc", "desc"] = "desc"
    purpose: Annotated[str | None, Field(max_length=100), AfterValidator(kept_purpose)] = None


@router.post(
    "/files",
    openapi_extra=openapi.body(_UPLOAD, media_type="multipart/form-data"),
    responses=errors(413, 415, 503, 507),
)
async def create_openai_file(
    request: Request, caller: Submitter, service: Service, readers: RowReaders
) -> schemas.File:
    """Upload a file. One of purpose `fine-tune` is a data set as well, whose rows are read.

    Rows that can't be read make its status `error`, and `status_details` says which.
    """
    readers.check()
    await run_in_threadpool(check_room, service, project=caller.project)
    settings = service.settings
    async with uploads.received(
        request,
        folder=settings.home / uploads.FOLDER,
        max_bytes=settings.max_upload_bytes,
        texts=_TEXTS,
    ) as upload:
        new = parsed(NewFile, _nested(upload.texts))
        keep = partial(
            keep_file,
            service,
            upload.path,
            caller=caller,
            name=upload.name,
            purpose=new.purpose,
            expires_seconds=new.expires_after.seconds if new.expires_after else None,
            and_then=lambda _, file: shown(file),
        )
        return await readers.run(keep)


@router.get("/files")
def list_openai_files(
    caller: Reader, service: Service, parameters: Annotated[FileParameters, Query()]
) -> schemas.List[schemas.File]:
    """List files, newest first unless asked otherwise."""
    with service.database.transaction() as tx:
        found = files.page(
            tx,
            project=caller.project,
            purpose=parameters.purpose,
            after=parameters.after,
            limit=parameters.limit + 1,
            is_newest_first=parameters.order == "desc",
        )
    return schemas.page_of([shown(file) for file in found], limit=parameters.limit)


@router.get("/files/{file_id}", responses=errors(404))
def get_openai_file(caller: Reader, service: Service, file_id: FileId) -> schemas.File:
    """Return a file's description."""
    with service.database.transaction() as tx:
        return shown(files.get(tx, file_id, project=caller.project))


@router.delete("/files/{file_id}", responses=errors(404, 409))
def delete_openai_file(caller: Submitter, service: Service, file_id: FileId) -> schemas.Deleted:
    """Delete a file, unless a job that has not ended needs it. Its data set goes with it."""
    with service.database.transaction() as tx:
        dataset_id = files.get(tx, file_id, project=caller.project).dataset_id
        key = files.remove(tx, file_id, project=caller.project)
        action = "dataset.delete" if dataset_id else "file.delete"
        audit.note(tx, caller=caller, action=action, target=dataset_id or file_id)
    if key is not None:
        discard(service, [key])
    return schemas.Deleted(id=file_id, object="file")


@router.get("/files/{file_id}/content", response_class=Response, responses=errors(404))
def download_openai_file(caller: Reader, service: Service, file_id: FileId) -> Response:
    """Download a file as it was uploaded, or the figures of a job as CSV."""
    with service.database.transaction() as tx:
        file = files.get(tx, file_id, project=caller.project)
        headers = {"Content-Disposition": attachment(file.name)}
        if file.job_id is not None:
            return Response(results.table(tx, file.job_id), media_type="text/csv", headers=headers)
        key = file.key
        if file.dataset_id is not None:
            key = datasets.get(tx, file.dataset_id, project=caller.project).key
    assert key is not None, "a file is a data set, figures of a job, or in the storage"
    headers["Content-Length"] = str(file.size_bytes)
    chunks = service.storage.read(key, start=0, end=file.size_bytes)
    return stream(chunks, headers=headers, media_type="application/octet-stream")


def keep_file(
    service: Backends,
    path: Path,
    *,
    caller: Caller,
    name: str,
    purpose: str,
    expires_seconds: int | None,
    and_then: Callable[[Transaction, File], T],
) -> T:
    """Store a received file; one to train on becomes a data set.

    Args:
        service: where to.
        path: the file.
        caller: who sends it.
        name: as its owner calls it.
        purpose: what for.
        expires_seconds: when it is to go; None for never.
        and_then: what else to do in the same transaction; what it returns is returned.
    """
    project = caller.project
    if purpose != files.TRAINING:
        check_name(service, name, project=project)
        key = f"files/{new_id('file')}"
        size = service.storage.put(key, path).size_bytes
        values = {
            "project": project, "name": name, "purpose": purpose, "key": key, "size_bytes": size,
        }  # fmt: skip

        def create(tx: Transaction) -> T:
            file_id = files.create(tx, values).id
            audit.note(
                tx, caller=caller, action="file.create", target=file_id, name=name, purpose=purpose
            )
            file = files.note(tx, file_id, fault=None, expires_seconds=expires_seconds)
            return and_then(tx, file)

        return committed(service, key, create)

    def note(tx: Transaction, kept: Dataset) -> T:
        audit.note(tx, caller=caller, action="dataset.create", target=kept.id, name=name)
        fault, file_id = _fault(kept.description), files.id_of(kept.id)
        return and_then(tx, files.note(tx, file_id, fault=fault, expires_seconds=expires_seconds))

    return keep_dataset(service, path, project=project, name=name, has_header=True, and_then=note)


def shown(file: File) -> schemas.File:
    """Return a file as OpenAI's clients see it."""
    return schemas.File(
        id=file.id,
        bytes=file.size_bytes,
        created_at=seconds(file.created_at),
        expires_at=seconds(file.expires_at) if file.expires_at else None,
        filename=file.name,
        purpose=file.purpose,
        status="error" if file.fault else "processed",
        status_details=file.fault,
    )


def _nested(texts: Any) -> dict[str, Any]:
    """Return the fields of a form, where `expires_after[seconds]` is a key of an object."""
    values: dict[str, Any] = {}
    for name, text in texts.items():
        outer, bracket, inner = name.partition("[")
        if bracket:
            values.setdefault(outer, {})[inner.rstrip("]")] = text
        else:
            values[name] = text
    return values


def _fault(description: dict[str, Any]) -> str | None:
    number = description["num_bad_rows"]
    if not number:
        return None
    first = description["bad_rows"][0]
    more = f" ({number} bad rows in all)" if number > 1 else ""
    return f"line {first['line']}: {first['reason']}{more}"
