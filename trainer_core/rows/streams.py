"""The bytes of an upload, decompressed piece by piece and never more than is allowed.

An upload is hostile until read: 2 KiB of Zstandard can stand for 64 MiB of zeros, and a gzip file
of 64 MiB for 64 GiB of them. So every piece is bounded in memory, the whole in total and in its
ratio to what is stored, and a damaged or cut-off file is an error, never a shorter file.
"""

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, assert_never

from trainer_core.errors import DataError

Compression = Literal["none", "gzip", "zstd"]

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

CHUNK_BYTES = 256 * KIB
# A Zstandard block of 4 bytes can repeat one byte 128 Ki times: 2 KiB in is at most 64 MiB out.
ZSTD_INPUT_BYTES = 2 * KIB
ZSTD_MAX_WINDOW_BYTES = 128 * MIB


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one file may hold once it is decompressed."""

    max_decoded_bytes: int = 64 * GIB
    max_row_bytes: int = 16 * MIB  # one line, one CSV record, one element of a JSON array
    max_ratio: int = 500  # decoded for each stored byte; text compresses 3 to 30 times
    ratio_free_bytes: int = GIB  # up to here the ratio does not matter


DEFAULT_LIMITS = Limits()


def read_chunks(
    path: Path, *, name: str, compression: Compression, limits: Limits = DEFAULT_LIMITS
) -> Iterator[bytes]:
    """Yield the decompressed bytes in non-empty pieces of at least 256 KiB but for the last.

    Raises:
        DataError: the compressed file is damaged, cut off, or decompresses to too much.
    """
    allowed = allowed_bytes(path, compression=compression, limits=limits)
    num_bytes = 0
    pieces: list[bytes] = []
    num_pending = 0
    for piece in _decompress(path, name=name, compression=compression):
        num_bytes += len(piece)
        num_pending += len(piece)
        if num_bytes > allowed:
            raise too_large(name, allowed=allowed)
        pieces.append(piece)
        if num_pending >= CHUNK_BYTES:
            yield b"".join(pieces)
            pieces, num_pending = [], 0
    if num_pending:
        yield b"".join(pieces)


def allowed_bytes(path: Path, *, compression: str, limits: Limits) -> int:
    """Return how many bytes the file may decompress to."""
    if compression == "none":
        return limits.max_decoded_bytes
    by_ratio = max(limits.ratio_free_bytes, limits.max_ratio * path.stat().st_size)
    return min(limits.max_decoded_bytes, by_ratio)


def too_large(name: str, *, allowed: int) -> DataError:
    """Return the error of a file that holds more than it may."""
    return DataError(
        f"{name} holds more than {allowed:,} bytes once it is decompressed, which is the most"
        " that is accepted for a file of its size.",
        hint="Split it, or upload it uncompressed.",
    )


def _decompress(path: Path, *, name: str, compression: Compression) -> Iterator[bytes]:
    match compression:
        case "none":
            return _plain_pieces(path)
        case "gzip":
            return _gzip_pieces(path, name=name)
        case "zstd":
            return _zstd_pieces(path, name=name)
        case _:
            assert_never(compression)


def _plain_pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            yield piece


def _gzip_pieces(path: Path, *, name: str) -> Iterator[bytes]:
    try:
        with gzip.open(path) as file:
            while piece := file.read(CHUNK_BYTES):
                yield piece
    except EOFError as error:
        raise _cut_off(name, "gzip") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise _damaged(name, "gzip", reason=str(error)) from error


def _zstd_pieces(path: Path, *, name: str) -> Iterator[bytes]:
    import zstandard

    # A reader object would take a cut-off frame for the end of the file, so frames are fed by hand.
    decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_MAX_WINDOW_BYTES)
    frame = None
    with path.open("rb") as file:
        while compressed := file.read(ZSTD_INPUT_BYTES):
            while compressed:
                frame = frame or decompressor.decompressobj()
                try:
                    decoded = frame.decompress(compressed)
                except zstandard.ZstdError as error:
                    raise _damaged(name, "Zstandard", reason=str(error)) from error
                for start in range(0, len(decoded), CHUNK_BYTES):
                    yield decoded[start : start + CHUNK_BYTES]
                compressed = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    if frame is not None:
        raise _cut_off(name, "Zstandard")


def _cut_off(name: str, method: str) -> DataError:
    return DataError(
        f"{name} is a {method} file that is cut off: its end is missing.",
        hint="Upload it again, or compress it again.",
    )


def _damaged(name: str, method: str, *, reason: str) -> DataError:
    return DataError(
        f"{name} is a damaged {method} file: {reason}.",
        hint="Compress it again, or upload it uncompressed.",
    )
