"""Which encoding a text file is in: from its byte order mark, its NULs, then all of its bytes.

A file of rows may hold its first accent after a gigabyte of ASCII, so the whole file is looked at.
Two cases look alike at the first byte that is not UTF-8: a file in Latin-1 or Windows-1252 (what
spreadsheets export), where nearly no accent is UTF-8; and a UTF-8 file with a few broken rows.
The share of the high bytes that are valid UTF-8 tells them apart.
"""

import codecs
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

_HIGH = bytes(range(0x80, 0x100))
_CONTROLS = bytes({*range(0x20), 0x7F} - set(b"\t\n\v\f\r\x1b"))
_C1 = bytes(range(0x80, 0xA0))
_CP1252_UNDEFINED = b"\x81\x8d\x8f\x90\x9d"

MAX_CONTROL_SHARE = 0.3
# Latin-1 accepts any byte, so what claims to be Latin-1 must look like text: a random byte is a
# control character in one case of ten.
MAX_CONTROL_SHARE_LATIN = 0.02


@dataclass(frozen=True, slots=True)
class Encoding:
    """A codec's name and what the user is told about the choice."""

    codec: str
    notes: tuple[str, ...] = ()


def detect_encoding(sample: bytes, *, rest: Iterable[bytes]) -> Encoding | None:
    """Return the encoding of a text file, or None if it is no text.

    Args:
        sample: the file's first bytes.
        rest: the bytes after the sample, read only where the sample does not settle it.
    """
    if sample.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return Encoding("utf-16", ("The file is in UTF-16.",))
    if codec := _utf16_without_mark(sample):
        note = f"The file was read as {codec.upper()}: every second byte is NUL."
        return Encoding(codec, (note,))
    controls = count_of(sample, _CONTROLS)
    if controls > MAX_CONTROL_SHARE * len(sample):
        return None
    if sample.startswith(codecs.BOM_UTF8):
        return Encoding("utf-8-sig", ("A UTF-8 byte order mark at the start was dropped.",))
    scan = _scan(sample, rest)
    return _eight_bit_encoding(scan, num_controls=controls, num_bytes=len(sample))


def _eight_bit_encoding(scan: "_Scan", *, num_controls: int, num_bytes: int) -> Encoding | None:
    if scan.first_bad is None:
        return Encoding("utf-8")
    place = f"byte 0x{scan.first_bad[1]:02X} at offset {scan.first_bad[0]:,} is not UTF-8"
    if scan.num_invalid * 2 < scan.num_high:
        return Encoding("utf-8", (f"Some rows are not UTF-8: {place}.",))
    if num_controls > max(1, MAX_CONTROL_SHARE_LATIN * num_bytes):
        return None
    codec, spoken = ("cp1252", "Windows-1252") if scan.is_cp1252 else ("latin-1", "Latin-1")
    return Encoding(codec, (f"{spoken} was assumed, because {place}.",))


def count_of(data: bytes, wanted: bytes) -> int:
    """Return how many bytes of `data` are one of `wanted`."""
    return len(data) - len(data.translate(None, wanted))


def _utf16_without_mark(sample: bytes) -> str | None:
    num_pairs = len(sample) // 2
    if not num_pairs:
        return None
    num_even = sample[0 : 2 * num_pairs : 2].count(0)
    num_odd = sample[1 : 2 * num_pairs : 2].count(0)
    few, most = 0.05 * num_pairs, 0.4 * num_pairs
    if num_odd > most and num_even <= few:
        codec = "utf-16-le"
    elif num_even > most and num_odd <= few:
        codec = "utf-16-be"
    else:
        return None
    # Small 16-bit numbers have such NULs too, but do not read as text.
    text = sample[: 2 * num_pairs].decode(codec, "replace").encode("utf-8", "replace")
    return codec if count_of(text, _CONTROLS) <= MAX_CONTROL_SHARE_LATIN * num_pairs else None


@dataclass(slots=True)
class _Scan:
    first_bad: tuple[int, int] | None = None  # offset and byte
    num_high: int = 0  # bytes from 0x80
    num_invalid: int = 0  # sequences that are not UTF-8
    num_c1: int = 0  # bytes 0x80 to 0x9F: letters in Windows-1252, control characters in Latin-1
    num_undefined: int = 0

    @property
    def is_cp1252(self) -> bool:
        return self.num_c1 > 0 and self.num_undefined == 0


def _scan(sample: bytes, rest: Iterable[bytes]) -> _Scan:
    scan = _Scan()
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    for chunk in chain((sample,), rest):
        is_ascii = chunk.isascii()
        if scan.first_bad is None:
            pending = len(decoder.getstate()[0])
            try:
                if pending or not is_ascii:
                    decoder.decode(chunk)
            except UnicodeDecodeError as error:
                scan.first_bad = (offset - pending + error.start, error.object[error.start])
        if not is_ascii:
            _count(scan, chunk)
        offset += len(chunk)
    pending_bytes = decoder.getstate()[0]
    if scan.first_bad is None and pending_bytes:
        scan.first_bad = (offset - len(pending_bytes), pending_bytes[0])
        scan.num_invalid += 1
    return scan


def _count(scan: _Scan, chunk: bytes) -> None:
    scan.num_high += count_of(chunk, _HIGH)
    scan.num_c1 += count_of(chunk, _C1)
    scan.num_undefined += count_of(chunk, _CP1252_UNDEFINED)
    # A sequence over the border of two chunks counts as invalid here: noise beside the rest.
    replaced = chunk.decode("utf-8", "replace").count("\ufffd")
    scan.num_invalid += replaced - chunk.count("\ufffd".encode())
