"""The names of files that hold no rows we can read, from their first bytes."""

import re
from typing import NamedTuple

ACCEPTED = (
    "Accepted are JSONL, JSON, CSV, TSV, CoNLL, Parquet and plain text (UTF-8, UTF-16 or Latin-1),"
    " each optionally compressed with gzip (.gz) or Zstandard (.zst)."
)


class Signature(NamedTuple):
    """What a refused file is, and what its owner can do."""

    what: str
    hint: str = ""


_UNPACK = "Unpack it and upload the files in it one by one."
_RECOMPRESS = "Compress it with gzip or Zstandard instead."
_TO_PARQUET = "Write it as Parquet or JSONL."
_TO_CSV = "Save the sheet as 'CSV UTF-8'."

_BY_PREFIX: tuple[tuple[bytes, Signature], ...] = (
    (b"\x1f\x8b", Signature("a gzip file inside a compressed file", "Compress it once only.")),
    (
        b"\x28\xb5\x2f\xfd",
        Signature("a Zstandard file inside a compressed file", "Compress it once only."),
    ),
    (b"BZh", Signature("a bzip2 file", _RECOMPRESS)),
    (b"\xfd7zXZ\x00", Signature("an xz file", _RECOMPRESS)),
    (b"\x04\x22\x4d\x18", Signature("an LZ4 file", _RECOMPRESS)),
    (b"7z\xbc\xaf\x27\x1c", Signature("a 7-Zip archive", _UNPACK)),
    (b"Rar!\x1a\x07", Signature("a RAR archive", _UNPACK)),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Signature("an old Excel or Word file", _TO_CSV)),
    (b"PARE", Signature("an encrypted Parquet file", "Write it without encryption.")),
    (b"ARROW1\x00\x00", Signature("an Arrow file", _TO_PARQUET)),
    (b"FEA1", Signature("a Feather file", _TO_PARQUET)),
    (b"Obj\x01", Signature("an Avro file", _TO_PARQUET)),
    (b"\x89HDF\r\n\x1a\n", Signature("an HDF5 file", _TO_PARQUET)),
    (b"SQLite format 3\x00", Signature("a SQLite database", _TO_PARQUET)),
    (b"\x93NUMPY", Signature("a NumPy file", _TO_PARQUET)),
    (b"GGUF", Signature("GGUF model weights")),
    (b"\x89PNG\r\n\x1a\n", Signature("a PNG image")),
    (b"\xff\xd8\xff", Signature("a JPEG image")),
    (b"GIF87a", Signature("a GIF image")),
    (b"GIF89a", Signature("a GIF image")),
    (b"%PDF-", Signature("a PDF document", "Extract its text first.")),
    (b"{\\rtf", Signature("an RTF document", "Save it as plain text.")),
    (b"\x7fELF", Signature("a program")),
    (b"\xff\xfe\x00\x00", Signature("UTF-32 text", "Save it as UTF-8.")),
    (b"\x00\x00\xfe\xff", Signature("UTF-32 text", "Save it as UTF-8.")),
    (
        b"version https://git-lfs.github.com/spec/",
        Signature("a Git LFS pointer, not the file itself", "Run `git lfs pull` and upload again."),
    ),
)

_BY_PATTERN: tuple[tuple[re.Pattern[bytes], Signature], ...] = (
    (
        re.compile(rb"\x80[\x02-\x05]"),
        Signature(
            "a Python pickle, which can run code when it is opened and is never read",
            "Write the rows as JSONL.",
        ),
    ),
    (
        re.compile(rb"RIFF.{4}(WAVE|WEBP|AVI )", re.DOTALL),
        Signature("an image, sound or video"),
    ),
    (re.compile(rb".{257}ustar", re.DOTALL), Signature("a tar archive", _UNPACK)),
    (re.compile(rb'.{3}\x00{5}\{"', re.DOTALL), Signature("safetensors model weights")),
    (
        re.compile(rb"\s*<(!doctype\s+html|html|head|body|\?xml)\b", re.IGNORECASE),
        Signature(
            "a web page or XML document", "Check the download, and upload the rows themselves."
        ),
    ),
)


def find_signature(sample: bytes) -> Signature | None:
    """Return what a file is if its first bytes say that it holds no rows, else None."""
    for prefix, signature in _BY_PREFIX:
        if sample.startswith(prefix):
            return signature
    if sample.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip_signature(sample)
    for pattern, signature in _BY_PATTERN:
        if pattern.match(sample):
            return signature
    return None


def _zip_signature(sample: bytes) -> Signature:
    if b"xl/" in sample:
        return Signature("an Excel workbook", _TO_CSV)
    if b"word/" in sample:
        return Signature("a Word document", "Save it as plain text.")
    if b".npy" in sample:
        return Signature("a NumPy archive", _TO_PARQUET)
    if b"data.pkl" in sample:
        return Signature("a PyTorch file (a pickle), which is never read")
    return Signature("a zip archive", _UNPACK)
