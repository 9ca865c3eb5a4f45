"""Answering with stored files: one tar, or one file with ranges, ETag, digest (RFC 9110, 9530)."""

import base64
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from fastapi import HTTPException, Request, Response
from fastapi.responses import StreamingResponse

from api import problems
from api.archives import tar_chunks, tar_size
from api.preconditions import is_known
from jobs.records import Artifact
from jobs.storage import Storage

_BINARY = {"schema": {"type": "string", "format": "binary"}}
TAR_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/x-tar": _BINARY}},
    **problems.responses(404, 409, 503),
}
FILE_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": _BINARY}},
    206: {
        "description": "The range asked for",
        "content": {"application/octet-stream": _BINARY},
    },
    304: {"description": "The file is the one that the client has"},
    416: {"description": "The range starts after the end of the file"},
    **problems.responses(404, 409, 503),
}

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class _Unsatisfiable(Exception):
    """The range starts after the end of the file."""


def tar_response(storage: Storage, files: Sequence[Artifact], *, name: str) -> Response:
    """Return the response to a GET of a model: one tar under a name, in a folder `model/`."""
    return stream(
        tar_chunks(storage, files),
        headers={
            "Content-Length": str(tar_size(files)),
            "Content-Disposition": attachment(f"{name}.tar"),
        },
        media_type="application/x-tar",
    )


def file_response(request: Request, storage: Storage, file: Artifact) -> Response:
    """Return the response to a GET or HEAD of a file, whole, a range of it, or 304 or 416."""
    etag = f'"{file.sha256}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(file.sha256)).decode()}:",
        "Content-Disposition": attachment(file.path.rpartition("/")[2]),
        "Cache-Control": "no-cache",  # may be kept, and is to be revalidated by its ETag
    }
    if is_known(request, etag):
        return Response(status_code=304, headers=headers)
    try:
        wanted = _wanted(request, etag, file.size_bytes)
    except _Unsatisfiable as error:
        headers["Content-Range"] = f"bytes */{file.size_bytes}"
        message = f"the range starts after the end of the file, which has {file.size_bytes} bytes."
        raise HTTPException(416, message, headers=headers) from error
    start, end = wanted or (0, file.size_bytes)
    headers["Content-Length"] = str(end - start)
    if wanted is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size_bytes}"
    return stream(
        iter(()) if request.method == "HEAD" else storage.read(file.key, start=start, end=end),
        status_code=200 if wanted is None else 206,
        headers=headers,
        media_type="application/octet-stream",
    )


def stream(
    chunks: Iterator[bytes], *, headers: dict[str, str], media_type: str, status_code: int = 200
) -> Response:
    """Return a streamed response whose first chunk is read already.

    A file that the storage has lost is then an error with a status, not a broken download.
    """
    first = list(itertools.islice(chunks, 1))
    return StreamingResponse(
        itertools.chain(first, chunks),
        status_code=status_code,
        headers=headers,
        media_type=media_type,
    )


def attachment(name: str) -> str:
    """Return a Content-Disposition that has a browser save a file under a name (RFC 6266)."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def _wanted(request: Request, etag: str, size: int) -> tuple[int, int] | None:
    """Return start and end (exclusive) of the range asked for, or None for the whole file.

    Of several ranges none is served: the standard lets a server send the whole file instead.
    """
    match = _RANGE.fullmatch(request.headers.get("range", "").strip())
    if request.method != "GET" or match is None or match.groups() == ("", ""):
        return None
    if request.headers.get("if-range", etag) != etag:
        return None
    first, last = match.groups()
    if first and last and int(first) > int(last):
        return None  # not a valid range, to be ignored
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if start >= size:
        raise _Unsatisfiable
    return start, end
