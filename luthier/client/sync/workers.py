# Made of luthier/client/aio/workers.py by `python -m tests.client.twins`: change that one.
"""`client.workers`: who trains."""

from collections.abc import Iterator

from luthier.client.operations import Worker
from luthier.client.sync.paging import pages
from luthier.client.sync.transport import Transport


class Workers:
    """The workers of a service."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, limit: int | None = None) -> Iterator[Worker]:
        """Yield the workers that were heard of within a minute, by name; at most `limit`."""
        return pages(self._transport, "/workers", Worker, cursor="name", limit=limit)
