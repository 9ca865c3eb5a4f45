"""The asynchronous client, called as if it were the other one: so that one test tries both."""

import inspect
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal

import luthier


@contextmanager
def async_client(url: str, **settings: Any) -> Iterator[Any]:
    """Give an `AsyncClient` whose calls return what awaiting them returns."""
    with start_blocking_portal() as portal:
        client = luthier.AsyncClient(url, **settings)
        try:
            yield Driven(client, portal)
        finally:
            portal.call(client.close)


class Driven:
    """Something asynchronous that is driven by a loop in a thread of its own."""

    def __init__(self, target: Any, portal: BlockingPortal) -> None:
        self._target = target
        self._portal = portal

    def __getattr__(self, name: str) -> Any:
        return _driven(getattr(self._target, name), self._portal)


def _driven(value: Any, portal: BlockingPortal) -> Any:
    if isinstance(value, AsyncIterator):
        return _drained(value, portal)
    if inspect.ismethod(value):

        def call(*args: Any, **kwargs: Any) -> Any:
            return _driven(portal.call(_awaited, value, args, kwargs), portal)

        return call
    is_ours = type(value).__module__.startswith("luthier.client.aio")
    return Driven(value, portal) if is_ours else value


async def _awaited(method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    result = method(*args, **kwargs)
    return await result if inspect.isawaitable(result) else result


def _drained(values: AsyncIterator[Any], portal: BlockingPortal) -> Iterator[Any]:
    while True:
        try:
            value = portal.call(anext, values)
        except StopAsyncIteration:
            return
        yield _driven(value, portal)
