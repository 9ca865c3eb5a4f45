"""Parts of a file: read one behind the other, and deleted once no row names them."""

import logging
from collections.abc import Iterable, Sequence
from typing import IO, Protocol

from jobs.backends import Backends
from jobs.records import UploadPart
from trainer_core.errors import LuthierError

_log = logging.getLogger(__name__)


class Digest(Protocol):
    """A hash that is being made."""

    def update(self, data: bytes, /) -> None: ...


def join(
    service: Backends, parts: Sequence[UploadPart], whole: IO[bytes], *, digest: Digest
) -> None:
    """Write parts one behind the other, and hash them all."""
    for part in parts:
        for chunk in service.storage.read(part.key, start=0, end=part.size_bytes):
            digest.update(chunk)
            whole.write(chunk)
    whole.flush()


def discard(service: Backends, keys: Iterable[str]) -> None:
    """Delete what no row names any more."""
    for key in keys:
        try:
            service.storage.delete(key)
        except LuthierError as error:  # gone for every user, and the file only takes room
            _log.warning("%s is left over: %s", key, error, extra={"action": "file_left"})
