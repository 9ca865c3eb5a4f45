"""One tar of several stored files, streamed, of a length that is known beforehand.

The same files always give the same bytes: sorted entries, one time, no owner, no links.
"""

import tarfile
from collections.abc import Iterator, Sequence

from jobs.records import Artifact
from jobs.storage import Storage

_MODIFIED_AT = 946_684_800  # 2000-01-01: fixed, and no reader finds it implausible
_END = bytes(2 * tarfile.BLOCKSIZE)


def tar_size(files: Sequence[Artifact]) -> int:
    """Return the number of bytes that `tar_chunks` yields."""
    return sum(len(_header(file)) + file.size_bytes + _padding(file) for file in files) + len(_END)


def tar_chunks(storage: Storage, files: Sequence[Artifact]) -> Iterator[bytes]:
    """Yield a tar of files, each below `model/`."""
    for file in sorted(files, key=lambda file: file.path):
        yield _header(file)
        yield from storage.read(file.key, start=0, end=file.size_bytes)
        yield bytes(_padding(file))
    yield _END


def _header(file: Artifact) -> bytes:
    info = tarfile.TarInfo(f"model/{file.path}")
    info.size = file.size_bytes
    info.mtime = _MODIFIED_AT
    return info.tobuf(tarfile.PAX_FORMAT)


def _padding(file: Artifact) -> int:
    return -file.size_bytes % tarfile.BLOCKSIZE
