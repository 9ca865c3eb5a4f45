"""The text of a file in blocks of lines, each line with its number and what can't be decoded."""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer_core.errors import DataError
from trainer_core.rows.formats import FileFormat
from trainer_core.rows.streams import Limits, read_chunks


@dataclass(frozen=True, slots=True)
class Source:
    """A file to read, and how."""

    path: Path
    name: str  # what the user calls it
    file_format: FileFormat
    limits: Limits


@dataclass(frozen=True, slots=True)
class LineBlock:
    """Some consecutive lines."""

    lines: list[str]  # without their newline; a byte that can't be decoded is a lone surrogate
    first_line: int
    flaws: dict[int, str]  # line number: what can't be decoded


def read_line_blocks(source: Source) -> Iterator[LineBlock]:
    r"""Yield the lines of a text file, split at "\n", or at "\r" where there is no "\n".

    Raises:
        DataError: a line is too long, or the compressed file is damaged.
    """
    newline = b""
    first_line, offset = 1, _mark_size(source)
    pending: list[bytes] = []  # of a line whose end is still to come
    num_pending = 0
    for chunk in _ascii_compatible_chunks(source):
        newline = newline or (b"\r" if b"\r" in chunk and b"\n" not in chunk else b"\n")
        head, found, tail = chunk.rpartition(newline)
        if found:
            data = b"".join((*pending, head))
            block = _to_block(data, newline, source, first_line=first_line, offset=offset)
            _check_lengths(block, data, source)
            yield block
            first_line += len(block.lines)
            offset += len(data) + 1
            pending, num_pending = [], 0
        pending.append(tail)
        num_pending += len(tail)
        if num_pending > source.limits.max_row_bytes:
            raise too_long(source, line=first_line, unit="line")
    if num_pending:
        data = b"".join(pending)
        yield _to_block(data, newline, source, first_line=first_line, offset=offset)


def read_text(source: Source) -> Iterator[str]:
    """Yield the text in pieces; a byte that can't be decoded is a lone surrogate."""
    decoder = codecs.getincrementaldecoder(_codec(source))("surrogateescape")
    for chunk in _ascii_compatible_chunks(source):
        yield decoder.decode(chunk)
    yield decoder.decode(b"", final=True)


def too_long(source: Source, *, line: int, unit: str, hint: str = "") -> DataError:
    """Return the error of a row that is larger than a row may be."""
    return DataError(
        f"{source.name}: the {unit} that starts on line {line:,} has more than"
        f" {source.limits.max_row_bytes:,} bytes, the most that is accepted.",
        hint=hint or "Split it into several rows.",
    )


def _to_block(
    data: bytes, newline: bytes, source: Source, *, first_line: int, offset: int
) -> LineBlock:
    try:
        lines = data.decode(_codec(source)).split(newline.decode())
    except UnicodeDecodeError:
        return _to_flawed_block(data, newline, source, first_line=first_line, offset=offset)
    return LineBlock(lines, first_line, {})


def _to_flawed_block(
    data: bytes, newline: bytes, source: Source, *, first_line: int, offset: int
) -> LineBlock:
    codec, encoding = _codec(source), source.file_format.encoding
    lines: list[str] = []
    flaws: dict[int, str] = {}
    for number, line in enumerate(data.split(newline), first_line):
        try:
            lines.append(line.decode(codec))
        except UnicodeDecodeError as error:
            lines.append(line.decode(codec, "surrogateescape"))
            place = f"byte 0x{line[error.start]:02X} at offset {offset + error.start:,} of the file"
            flaws[number] = f"{place} is not {encoding.removesuffix('-sig').upper()}"
            if encoding.startswith("utf-16"):  # the bytes are those of the transcoded text
                flaws[number] = "it holds half a character (an unpaired UTF-16 surrogate)"
        offset += len(line) + 1
    return LineBlock(lines, first_line, flaws)


def _check_lengths(block: LineBlock, data: bytes, source: Source) -> None:
    limit = source.limits.max_row_bytes
    if len(data) <= limit:
        return
    for number, line in enumerate(block.lines, block.first_line):
        if len(line) > limit:
            raise too_long(source, line=number, unit="line")


def _codec(source: Source) -> str:
    encoding = source.file_format.encoding
    return "utf-8" if encoding.startswith("utf-") else encoding


def _mark_size(source: Source) -> int:
    return len(codecs.BOM_UTF8) if source.file_format.encoding == "utf-8-sig" else 0


def _ascii_compatible_chunks(source: Source) -> Iterator[bytes]:
    """Yield the bytes in an encoding where a newline is one byte: UTF-16 becomes UTF-8."""
    chunks = read_chunks(
        source.path,
        name=source.name,
        compression=source.file_format.compression,
        limits=source.limits,
    )
    encoding = source.file_format.encoding
    if encoding.startswith("utf-16"):
        return _utf16_to_utf8(chunks, source)
    return _drop_mark(chunks) if encoding == "utf-8-sig" else chunks


def _drop_mark(chunks: Iterator[bytes]) -> Iterator[bytes]:
    first = next(chunks, b"")
    yield first.removeprefix(codecs.BOM_UTF8)
    yield from chunks


def _utf16_to_utf8(chunks: Iterator[bytes], source: Source) -> Iterator[bytes]:
    # Lone surrogates pass, so that their line is reported and not the file refused.
    decoder = codecs.getincrementaldecoder(source.file_format.encoding)("surrogatepass")
    for chunk in chunks:
        try:
            text = decoder.decode(chunk)
        except UnicodeError as error:
            raise DataError(
                f"{source.name} is not in {source.file_format.encoding.upper()}: {error}.",
                hint="Save it as UTF-8.",
            ) from error
        yield text.encode("utf-8", "surrogatepass")
    if decoder.getstate()[0]:
        yield b"\xff"  # half a character at the end: makes the last line one that can't be decoded
