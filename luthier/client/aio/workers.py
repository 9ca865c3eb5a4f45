"""`client.workers`: who trains."""

from collections.abc import AsyncIterator

from luthier.client.aio.paging import pages
from luthier.client.aio.transport import AsyncTransport
from luthier.client.operations import Worker


class AsyncWorkers:
    """The workers of a service."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    def list(self, *, limit: int | None = None) -> AsyncIterator[Worker]:
        """Yield the workers that were heard of within a minute, by name; at most `limit`."""
        return pages(self._transport, "/workers", Worker, cursor="name", limit=limit)
