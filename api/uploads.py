"""Receiving one file of a multipart body, streamed to disk; it is never whole in memory."""

import contextlib
import errno
import tempfile
import time
import unicodedata
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from api.bodies import check_length, too_large
from api.writing import MAX_PIECES, Writing
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

_MAX_FORM_BYTES = 1 << 16  # of what surrounds the file: boundaries, headers and other fields
_MAX_TEXT_BYTES = 1 << 10  # of another field
_WRITE_BYTES = 2 << 20  # two of these are in memory: one comes in, one is written
_STALE_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Upload:
    """A received file."""

    path: Path
    name: str  # as the user calls it, fit to be shown
    size_bytes: int
    texts: Mapping[str, str] = field(default_factory=dict)  # other fields of the form


@contextlib.asynccontextmanager
async def received(
    request: Request,
    *,
    folder: Path,
    max_bytes: int,
    name: str = FIELD,
    texts: Collection[str] = (),
) -> AsyncIterator[Upload]:
    """Receive the file of a request into a temporary file, for the length of the context.

    Args:
        request: with a multipart body.
        folder: where to put the temporary file.
        max_bytes: largest file; a larger one is refused without reading on.
        name: of the field that is the file.
        texts: names of fields that may be there besides.

    Raises:
        UnsupportedMediaType, InvalidRequest, InvalidSpec: the body is not that.
        PayloadTooLarge: the file is larger than `max_bytes`.
        DiskFull: there is no room for it.
    """
    boundary = _boundary(request)
    check_length(request, limit=max_bytes + _MAX_FORM_BYTES)
    with disk_full(), tempfile.NamedTemporaryFile(dir=folder, buffering=0) as file:
        part = _Form(boundary, name=name, texts=texts)
        num_bytes = num_file_bytes = 0
        async with Writing(file) as writing:
            async for chunk in request.stream():
                num_bytes += len(chunk)
                num_file_bytes += part.write(chunk)
                if num_file_bytes > max_bytes or num_bytes > max_bytes + _MAX_FORM_BYTES:
                    raise too_large(max_bytes)
                if part.num_waiting >= _WRITE_BYTES or len(part.pieces) >= MAX_PIECES:
                    await writing.write(part.take())
            part.check_complete()
            await writing.write(part.take())
        yield Upload(Path(file.name), shown_name(part.file_name), num_file_bytes, part.texts)


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


class _Form:
    """Takes a multipart body apart, of which one file is expected, and texts that may be there."""

    def __init__(self, boundary: bytes, *, name: str, texts: Collection[str]) -> None:
        self.file_name = ""
        self.pieces: list[bytes] = []  # of the file, not yet written
        self.num_waiting = 0  # bytes of them
        self.texts: dict[str, str] = {}
        self._name = name
        self._known = frozenset(texts)
        self._has_file = self._is_ended = False
        self._chunk = b""  # in hand
        self._is_inside = False  # the chunk ended in the file, and not in what may be a boundary
        self._field = bytearray()  # a header
        self._value = bytearray()
        self._disposition = ""
        self._text_name: str | None = None  # of the part in hand, if it is a text
        self._text = bytearray()
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._on_field,
                "on_header_value": self._on_value,
                "on_header_end": self._on_header,
                "on_headers_finished": self._on_headers,
                "on_part_data": self._on_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
        )

    def write(self, chunk: bytes) -> int:
        """Take bytes of the body, and return how many bytes of the file came with them."""
        # A boundary begins with CR LF. Looking for one byte is five times quicker than for it all.
        if self._is_inside and b"\r" not in chunk:
            self.pieces.append(chunk)
            self.num_waiting += len(chunk)
            return len(chunk)
        before = self.num_waiting
        self._chunk, self._is_inside = chunk, False
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise InvalidRequest(
                f"the body is not multipart/form-data: {error}.", hint=_hint(self._name)
            ) from error
        return self.num_waiting - before

    def take(self) -> list[bytes]:
        """Return what is not yet written of the file, and forget it."""
        pieces, self.pieces, self.num_waiting = self.pieces, [], 0
        return pieces

    def check_complete(self) -> None:
        """Raise InvalidRequest if the body ended before its closing boundary."""
        if not self._is_ended:
            raise InvalidRequest("the body is cut off.", hint="Send the file again.")
        if not self._has_file:
            raise _field_problem(self._name, "is required", file=self._name)

    def _begin(self) -> None:
        if self._has_file and not self._known:
            raise _field_problem(
                self._name, "was expected alone; the body has several fields", file=self._name
            )
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
        name = options.get(b"name", b"").decode("latin-1")[:100]
        self._text_name = name if name in self._known else None
        if self._text_name is not None:
            if name in self.texts:
                raise _field_problem(name, "is given twice", file=self._name)
            return
        if name != self._name:
            raise _field_problem(
                self._name, f"was expected; the body has '{name}'", file=self._name
            )
        if self._has_file:
            raise _field_problem(name, "is given twice", file=self._name)
        if b"filename" not in options:
            raise _field_problem(name, "has no file name, so it is no file", file=self._name)
        self._has_file = True
        self.file_name = options[b"filename"].decode("utf-8", "replace")

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._text_name is None:
            self.pieces.append(data[start:end])  # a chunk that is all file is not copied
            self.num_waiting += end - start
            self._is_inside = data is self._chunk and end == len(data)
            return
        self._text += data[start:end]
        if len(self._text) > _MAX_TEXT_BYTES:
            raise _field_problem(
                self._text_name, f"has more than {_MAX_TEXT_BYTES} bytes", file=self._name
            )

    def _on_part_end(self) -> None:
        if self._text_name is not None:
            self.texts[self._text_name] = self._text.decode("utf-8", "replace")
            self._text.clear()

    def _on_end(self) -> None:
        self._is_ended = True


def _hint(name: str) -> str:
    return f"Send one form field '{name}' (curl: -F {name}=@train.csv)."


def _field_problem(name: str, message: str, *, file: str) -> InvalidSpec:
    return InvalidSpec([FieldProblem(f"/{name}", message, _hint(file))])


def _boundary(request: Request) -> bytes:
    media_type, options = parse_options_header(request.headers.get("content-type"))
    if media_type != b"multipart/form-data" or not options.get(b"boundary"):
        shown = media_type.decode("latin-1")[:100] or "of no type"
        raise UnsupportedMediaType(
            f"the body is {shown}; multipart/form-data with a boundary was expected.",
            hint=_hint(FIELD),
        )
    return options[b"boundary"]


@contextlib.contextmanager
def disk_full() -> Iterator[None]:
    """Raise DiskFull where the file system has no room."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull("there is no room for the file.", hint="Free some disk, or wait.") from error
