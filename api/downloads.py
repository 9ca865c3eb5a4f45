"""Answering with a stored file: ranges, ETags, digests (RFC 9110, RFC 9530)."""

import base64
import itertools
import re
from collections.abc import Iterator
from urllib.parse import quote

from fastapi import HTTPException, Request, Response
from fastapi.responses import StreamingResponse

from api.preconditions import is_known
from jobs.records import Artifact
from jobs.storage import Storage

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class _Unsatisfiable(Exception):
    """The range starts after the end of the file."""


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
