"""What kind of file an upload is: decided from its content first and its name second."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trainer_core.errors import EmptyFile, UnknownFormat
from trainer_core.rows.encodings import Encoding, detect_encoding
from trainer_core.rows.kinds import TextKind, detect_kind
from trainer_core.rows.signatures import ACCEPTED, find_signature
from trainer_core.rows.streams import DEFAULT_LIMITS, MIB, Compression, Limits, read_chunks

Kind = Literal["jsonl", "json", "csv", "tsv", "conll", "parquet", "text"]

SAMPLE_BYTES = MIB

_VISIBLE = re.compile(r"[^\s\0\ufeff]")

_KIND_BY_SUFFIX: dict[str, Kind] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonlines": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".conll": "conll",
    ".bio": "conll",
    ".iob": "conll",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
}
_COMPRESSION_BY_SUFFIX: dict[str, Compression] = {
    ".gz": "gzip",
    ".gzip": "gzip",
    ".zst": "zstd",
    ".zstd": "zstd",
}
_COMPRESSION_BY_PREFIX: dict[bytes, Compression] = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_SPOKEN: dict[str, str] = {
    "jsonl": "JSON, one object a line",
    "json": "one JSON document",
    "csv": "a table of separated values",
    "tsv": "a table separated by tabs",
    "conll": "a word and its tag a line (CoNLL)",
    "parquet": "Parquet",
    "text": "plain text",
    "none": "not compressed",
    "gzip": "compressed with gzip",
    "zstd": "compressed with Zstandard",
}


@dataclass(frozen=True, slots=True)
class FileFormat:
    """How to read a file."""

    kind: Kind
    compression: Compression = "none"
    encoding: str = "utf-8"  # a codec's name; "binary" for Parquet
    delimiter: str | None = None  # for csv and tsv
    notes: tuple[str, ...] = ()  # sentences for the user: what was assumed, dropped or surprising

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "FileFormat":
        """Return the format that `dataclasses.asdict` wrote, also after a trip through JSON."""
        return cls(**{**values, "notes": tuple(values["notes"])})


def sniff(path: Path, *, name: str, limits: Limits = DEFAULT_LIMITS) -> FileFormat:
    """Return how to read a file.

    Reads a text file to its end, because its encoding can show in its last line.

    Args:
        path: where the file is.
        name: what the user calls it; its ending counts where the content leaves a doubt.
        limits: how much the file may hold.

    Raises:
        EmptyFile: there are no bytes, or only white space.
        UnknownFormat: the file holds no rows that can be read; says what it is where that shows.
        DataError: the compressed file is damaged, cut off, or too large.
    """
    with path.open("rb") as file:
        magic = file.read(4)
    compression = _compression(magic)
    chunks = read_chunks(path, name=name, compression=compression, limits=limits)
    sample = _read_sample(chunks)
    if not sample.strip():
        raise _empty(name)
    notes = _compression_notes(name, compression)
    if sample.startswith(b"PAR1"):
        notes += _kind_notes(name, "parquet")
        return FileFormat("parquet", compression, "binary", None, notes)
    encoding = _text_encoding(sample, chunks, name=name)
    found = _text_kind(sample, encoding, name=name)
    notes += encoding.notes + found.notes + _kind_notes(name, found.kind)
    return FileFormat(found.kind, compression, encoding.codec, found.delimiter, notes)


def _compression(magic: bytes) -> Compression:
    for prefix, compression in _COMPRESSION_BY_PREFIX.items():
        if magic.startswith(prefix):
            return compression
    return "none"


def _read_sample(chunks: Iterator[bytes]) -> bytes:
    """Return the file from its first chunk that is not blank, up to a sample's size."""
    pieces: list[bytes] = []
    num_bytes = 0
    for chunk in chunks:
        if not pieces and chunk.isspace():
            continue
        pieces.append(chunk)
        num_bytes += len(chunk)
        if num_bytes >= SAMPLE_BYTES:
            break
    return b"".join(pieces)


def _text_encoding(sample: bytes, rest: Iterator[bytes], *, name: str) -> Encoding:
    if signature := find_signature(sample):
        raise UnknownFormat(
            f"{name} is {signature.what}, which can't be read as rows.",
            hint=f"{signature.hint} {ACCEPTED}".strip(),
        )
    encoding = detect_encoding(sample, rest=rest)
    if encoding is None:
        raise UnknownFormat(f"{name} is a binary file of an unknown kind.", hint=ACCEPTED)
    return encoding


def _text_kind(sample: bytes, encoding: Encoding, *, name: str) -> TextKind:
    text = sample.decode(encoding.codec, "replace")
    if not _VISIBLE.search(text):
        raise _empty(name)
    named = _kind_by_name(name)
    found = detect_kind(text, is_whole=len(sample) < SAMPLE_BYTES, named=named)
    if named == "parquet" and found.kind == "text":
        raise UnknownFormat(f"{name} is not a Parquet file, but some text.", hint=ACCEPTED)
    return found


def _empty(name: str) -> EmptyFile:
    return EmptyFile(
        f"{name} is empty or holds nothing but white space.",
        hint="Upload a file with at least one row.",
    )


def _suffixes(name: str) -> tuple[str, str]:
    """Return the ending that names the kind and the one that names the compression."""
    outer = Path(name).suffix.lower()
    if outer in _COMPRESSION_BY_SUFFIX:
        return Path(Path(name).stem).suffix.lower(), outer
    return outer, ""


def _kind_by_name(name: str) -> Kind | None:
    return _KIND_BY_SUFFIX.get(_suffixes(name)[0])


def _kind_notes(name: str, kind: Kind) -> tuple[str, ...]:
    suffix = _suffixes(name)[0]
    if _KIND_BY_SUFFIX.get(suffix, kind) == kind:
        return ()
    return (f"The name ends in {suffix}, but the content is {_SPOKEN[kind]}; it is read as such.",)


def _compression_notes(name: str, compression: Compression) -> tuple[str, ...]:
    suffix = _suffixes(name)[1]
    if _COMPRESSION_BY_SUFFIX.get(suffix, "none") == compression:
        return ()
    ending = f"ends in {suffix}" if suffix else "has no .gz or .zst ending"
    return (f"The name {ending}, but the file is {_SPOKEN[compression]}.",)
