"""`Idempotency-Key`: a POST that is sent again makes nothing twice, and is answered as the first.

The reply is kept in the transaction that makes what it tells of. So a service that dies before it
has answered has made both or neither, and of two processes that work on one key at once the second
rolls back and answers what the first has kept. Replies that refuse are not kept: nothing was made.
A route whose reply holds a secret must not take a key, for replies are kept as they are: it names
`NotIdempotent`, and refuses one rather than let its sender rely on it. A route names either after
its `JsonBody`, so that a body of another type is refused unread.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, NoReturn

from fastapi import Depends, FastAPI, Header, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from api.access import caller_of
from api.bodies import read_body
from api.dependencies import backends_of
from api.problems import RETRY
from jobs.backends import Backends
from jobs.records import Reply
from jobs.store import replies
from jobs.transaction import Transaction
from trainer_core.errors import IdempotencyKeyReused, InvalidRequest, RequestInFlight

REPLAYED = "Idempotency-Replayed"
_HEADER = "Idempotency-Key"
MAX_KEY_CHARACTERS = 255

_WAIT_SECONDS = 3.0  # for the first request with the key; most are over by then
_RETRY_SECONDS = 2

_Key = Annotated[
    str | None,
    Header(
        alias=_HEADER,
        description="A name of your own for this request, such as a UUID. Sent again within 24 "
        "hours, the request is answered as the first time and makes nothing.",
        min_length=1,
        max_length=MAX_KEY_CHARACTERS,
    ),
]


class Replay(Exception):
    """The request was answered before; that reply is sent again."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.key)
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Once:
    """What a route answers with, so that the same request is answered the same again."""

    project: str
    key: str | None
    fingerprint: str  # of the request

    def answer(
        self, tx: Transaction, shown: BaseModel, *, status: int = 201, location: str | None = None
    ) -> Response:
        """Return the reply that tells of what `tx` makes, and keep it in `tx` if there is a key.

        Raises:
            Replay: another process has answered the key meanwhile; `tx` is rolled back.
            IdempotencyKeyReused: it has, and another request.
        """
        headers = {} if location is None else {"Location": location}
        body = shown.model_dump_json(by_alias=True)
        if self.key is not None and not replies.keep(
            tx,
            self.key,
            project=self.project,
            fingerprint=self.fingerprint,
            status=status,
            headers=headers,
            body=body,
        ):
            kept = replies.find(tx, self.key, project=self.project)
            assert kept is not None, "a key that is taken has a reply"
            _replay(kept, fingerprint=self.fingerprint)
        return Response(body, status, headers=headers, media_type="application/json")


@dataclass(frozen=True, slots=True)
class Flights:
    """The keys that this process works on, each with the fingerprint of its first request."""

    _flights: dict[tuple[str, str], tuple[str, asyncio.Event]] = field(default_factory=dict)

    @asynccontextmanager
    async def flight(self, project: str, key: str, *, fingerprint: str) -> AsyncIterator[None]:
        """Have the key for the length of the context, after whoever has it now.

        Raises:
            RequestInFlight: it was not over after a few seconds.
            IdempotencyKeyReused: it is had by another request.
        """
        place = (project, key)
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                while place in self._flights:
                    first, landed = self._flights[place]
                    if first != fingerprint:
                        _refuse(key)
                    await landed.wait()
        except TimeoutError as error:
            raise RequestInFlight(
                f"the first request with the idempotency key '{key}' is still being worked on.",
                hint="Send it again a little later, with the same key.",
                param=_HEADER,
                detail={RETRY: _RETRY_SECONDS},
            ) from error
        landed = asyncio.Event()
        self._flights[place] = (fingerprint, landed)
        try:
            yield
        finally:
            del self._flights[place]
            landed.set()


def install(app: FastAPI) -> None:
    """Let an application answer requests with a key."""
    app.state.flights = Flights()
    app.add_exception_handler(Replay, _on_replay)


async def _once(request: Request, key: _Key = None) -> AsyncIterator[Once]:
    # Asked for here and not as dependencies: FastAPI would solve theirs anew.
    project = caller_of(request).project
    once = Once(project, key, _fingerprint(request, await read_body(request)))
    if key is None:
        yield once
        return
    flights = request.app.state.flights
    assert isinstance(flights, Flights)
    async with flights.flight(project, key, fingerprint=once.fingerprint):
        kept = await run_in_threadpool(partial(_find, backends_of(request), key, project=project))
        if kept is not None:
            _replay(kept, fingerprint=once.fingerprint)
        yield once


# It is over when the route has returned: by then the reply is kept.
Idempotent = Annotated[Once, Depends(_once, scope="function")]


async def _no_key(request: Request) -> None:
    if _HEADER in request.headers:
        raise InvalidRequest(
            f"this request takes no {_HEADER}: its answer is not kept, and sent again it would be "
            "carried out again.",
            hint="Leave the header out. Where an answer was lost, list what there is.",
            param=_HEADER,
        )


NotIdempotent = Annotated[None, Depends(_no_key)]


def _find(service: Backends, key: str, *, project: str) -> Reply | None:
    with service.database.transaction() as tx:
        return replies.find(tx, key, project=project)


def _fingerprint(request: Request, body: bytes) -> str:
    url = request.url
    asked = f"{request.method} {url.path}?{url.query}\n".encode()
    return hashlib.sha256(asked + body).hexdigest()


def _replay(kept: Reply, *, fingerprint: str) -> NoReturn:
    if kept.fingerprint != fingerprint:
        _refuse(kept.key)
    raise Replay(kept)


def _refuse(key: str) -> NoReturn:
    raise IdempotencyKeyReused(
        f"the idempotency key '{key}' was sent before, with another request.",
        hint="Use a new key for a new request; send the same request again with the same key.",
        param=_HEADER,
    )


async def _on_replay(request: Request, error: Exception) -> Response:  # noqa: ARG001
    assert isinstance(error, Replay)
    kept = error.reply
    headers = {**kept.headers, REPLAYED: "true"}
    return Response(kept.body, kept.status, headers=headers, media_type="application/json")
