"""Lists that come in pages."""

from collections.abc import AsyncIterator
from typing import Any, TypeVar

from luthier.client.aio.transport import AsyncTransport
from luthier.client.errors import UnexpectedReply
from luthier.client.values import from_json

LARGEST_PAGE = 100
T = TypeVar("T")


async def pages(
    transport: AsyncTransport,
    path: str,
    kind: type[T],
    *,
    cursor: str = "id",
    after: Any = None,
    page_size: int = LARGEST_PAGE,
    limit: int | None = None,
    owner: object = None,
    **params: Any,
) -> AsyncIterator[T]:
    """Yield the items of a list, fetching the next page once it is needed.

    Args:
        transport: how to reach the service.
        path: the list's path.
        kind: type of an item.
        cursor: the item's member that says where the next page starts.
        after: where the first page starts.
        page_size: items fetched at once.
        limit: items in all; None for every one.
        owner: the resource by which an item makes calls of its own.
        params: further parameters of the request.
    """
    num_left = limit
    while num_left is None or num_left > 0:
        size = page_size if num_left is None else min(page_size, num_left)
        page = await transport.get(path, after=after, limit=size, **params)
        if not isinstance(page, dict) or "data" not in page:
            raise UnexpectedReply(f"the answer to GET {path} is no list.", code="unexpected_reply")
        for values in page["data"]:
            yield from_json(kind, values, owner=owner)
        if not page["data"] or not page.get("has_more"):
            return
        after = page["data"][-1][cursor]
        num_left = None if num_left is None else num_left - len(page["data"])
