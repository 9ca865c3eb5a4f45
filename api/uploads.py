"""Receiving one file of a multipart body, streamed to disk; it is never whole in memory."""

import contextlib
import errno
import tempfile
import time
import unicodedata
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from api.bodies import check_length, too_large
from trainer_core.errors import (
    DiskFull,
    FieldProblem,
    InvalidRequest,
    InvalidSpec,
    UnsupportedMediaType,
)

FIELD = "file"
FOLDER = "uploads"  # below the home folder: /tmp may be memory
MAX_NAME_CHARACTERS = 255

_MAX_FORM_BYTES = 1 << 16  # of what surrounds the file: boundaries and headers
_WRITE_BYTES = 1 << 20
_STALE_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Upload:
    """A received file."""

    path: Path
    name: str  # as the user calls it, fit to be shown


@contextlib.asynccontextmanager
async def received(request: Request, *, folder: Path, max_bytes: int) -> AsyncIterator[Upload]:
    """Receive the file of a request into a temporary file, for the length of the context.

    Args:
        request: with a multipart body that has one field, `file`.
        folder: where to put the temporary file.
        max_bytes: largest file; a larger one is refused without reading on.

    Raises:
        UnsupportedMediaType, InvalidRequest, InvalidSpec: the body is not that.
        PayloadTooLarge: the file is larger than `max_bytes`.
        DiskFull: there is no room for it.
    """
    boundary = _boundary(request)
    check_length(request, limit=max_bytes + _MAX_FORM_BYTES)
    with _disk_full(), tempfile.NamedTemporaryFile(dir=folder, buffering=0) as file:
        part = _Part(boundary)
        num_bytes = num_file_bytes = 0
        async for chunk in request.stream():
            num_bytes += len(chunk)
            num_file_bytes += part.write(chunk)
            if num_file_bytes > max_bytes or num_bytes > max_bytes + _MAX_FORM_BYTES:
                raise too_large(max_bytes)
            if len(part.data) >= _WRITE_BYTES:
                await run_in_threadpool(_move, part.data, file)
        part.check_complete()
        await run_in_threadpool(_move, part.data, file)
        yield Upload(Path(file.name), shown_name(part.name))


def clear_stale(folder: Path) -> None:
    """Make the folder of temporary files, and remove what a killed process left there."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process may clear it too
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink()


def shown_name(name: str) -> str:
    """Return a file name without folders and without characters that can't be seen."""
    base = name.replace("\\", "/").rpartition("/")[2]
    visible = "".join(c for c in base if not unicodedata.category(c).startswith("C")).strip()
    return visible[-MAX_NAME_CHARACTERS:] if visible not in ("", ".", "..") else "upload"


class _Part:
    """Takes a multipart body apart, of which one file is expected."""

    def __init__(self, boundary: bytes) -> None:
        self.name = ""
        self.data = bytearray()  # of the file, not yet written
        self._num_parts = 0
        self._is_ended = False
        self._field = bytearray()
        self._value = bytearray()
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._on_field,
                "on_header_value": self._on_value,
                "on_header_end": self._on_header,
                "on_headers_finished": self._on_headers,
                "on_part_data": self._on_data,
                "on_end": self._on_end,
            },
        )
        self._disposition = ""

    def write(self, chunk: bytes) -> int:
        """Take bytes of the body, and return how many bytes of the file came with them."""
        before = len(self.data)
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise InvalidRequest(
                f"the body is not multipart/form-data: {error}.", hint=_HINT
            ) from error
        return len(self.data) - before

    def check_complete(self) -> None:
        """Raise InvalidRequest if the body ended before its closing boundary."""
        if not self._is_ended:
            raise InvalidRequest("the body is cut off.", hint="Send the file again.")
        if self._num_parts == 0:
            raise _field_problem("is required")

    def _begin(self) -> None:
        self._num_parts += 1
        if self._num_parts > 1:
            raise _field_problem("was expected alone; the body has several fields")
        self._disposition = ""

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value.decode("latin-1")
        self._field.clear()
        self._value.clear()

    def _on_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        if options.get(b"name") != FIELD.encode():
            given = options.get(b"name", b"").decode("latin-1")[:100]
            raise _field_problem(f"was expected; the body has '{given}'")
        if b"filename" not in options:
            raise _field_problem("has no file name, so it is no file")
        self.name = options[b"filename"].decode("utf-8", "replace")

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self.data += data[start:end]

    def _on_end(self) -> None:
        self._is_ended = True


_HINT = f"Send one form field '{FIELD}' (curl: -F {FIELD}=@train.csv)."


def _field_problem(message: str) -> InvalidSpec:
    return InvalidSpec([FieldProblem(f"/{FIELD}", message, _HINT)])


def _boundary(request: Request) -> bytes:
    media_type, options = parse_options_header(request.headers.get("content-type"))
    if media_type != b"multipart/form-data" or not options.get(b"boundary"):
        shown = media_type.decode("latin-1")[:100] or "of no type"
        raise UnsupportedMediaType(
            f"the body is {shown}; multipart/form-data with a boundary was expected.", hint=_HINT
        )
    return options[b"boundary"]


def _move(data: bytearray, file: IO[bytes]) -> None:
    """Write all of `data` to the file and empty it."""
    with memoryview(data) as view:
        written = 0
        while written < len(view):
            written += file.write(view[written:])
    data.clear()


@contextlib.contextmanager
def _disk_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull("there is no room for the file.", hint="Free some disk, or wait.") from error
