"""The SQL of requests, told apart from that of the service's loops, which run when they like."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sqlalchemy import Engine, event
from starlette.types import ASGIApp, Receive, Scope, Send

_is_in_request: ContextVar[bool] = ContextVar("is_in_request", default=False)


class Marking:
    """ASGI middleware that marks requests; threads that work for one have its context."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _is_in_request.set(scope["type"] == "http")  # the server begins each in a new task
        await self._app(scope, receive, send)


@contextmanager
def statements_of_requests() -> Iterator[list[str]]:
    """Give a list that grows by each statement of requests to services that mark them."""
    found: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if _is_in_request.get():
            found.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(Engine, "before_cursor_execute", note)
