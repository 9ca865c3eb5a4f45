"""Parts of a file: read one behind the other, and deleted once no row names them."""

import logging
from collections.abc import Iterable, Iterator, Sequence

from jobs.backends import Backends
from jobs.records import UploadPart
from trainer_core.errors import LuthierError

_log = logging.getLogger(__name__)


def chunks_of(service: Backends, parts: Sequence[UploadPart]) -> Iterator[bytes]:
    """Yield the bytes of parts in order."""
    for part in parts:
        yield from service.storage.read(part.key, start=0, end=part.size_bytes)


def discard(service: Backends, keys: Iterable[str]) -> None:
    """Delete what no row names any more."""
    for key in keys:
        try:
            service.storage.delete(key)
        except LuthierError as error:  # gone for every user, and the file only takes room
            _log.warning("%s is left over: %s", key, error, extra={"action": "file_left"})
