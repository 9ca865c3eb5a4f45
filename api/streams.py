"""Following a job's events live, with no gap and no double.

Order is all: subscribe to the Redis stream first, replay from the database second, follow the
stream third. What was published in between comes twice and is dropped by its number; a number that
is missing sends us to the database, and so do a heartbeat and a Redis that is gone. A stream holds
no database connection between two reads.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import redis.asyncio
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, format_sse_event
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from sqlalchemy.exc import OperationalError
from starlette.types import Message, Send

from api.schemas import Event
from jobs.feed import Subscription
from jobs.records import StoredEvent
from jobs.states import FINAL
from jobs.store import events
from jobs.transaction import Database
from trainer_core.events import EventType

PAGE_SIZE = 25  # all that is held for a reader who takes it slowly
MAX_SEND_SECONDS = 60.0  # for one page to be taken
POLL_SECONDS = 1.0  # how soon a stream notices that the service stops, or that Redis is back

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Hub:
    """What every stream of this process shares."""

    database: Database
    redis: redis.asyncio.Redis
    heartbeat_seconds: float
    stopping: asyncio.Event  # set when the service stops: the streams end, clients come back


def redis_client(url: str) -> redis.asyncio.Redis:
    """Return a client whose calls fail at once: a stream has the database to fall back on."""
    return redis.asyncio.Redis.from_url(
        url,
        socket_connect_timeout=1,
        socket_timeout=POLL_SECONDS + 2,
        retry=Retry(NoBackoff(), 0),
    )


class Follower:
    """Reads one job's events for one client."""

    def __init__(self, hub: Hub, job_id: str, *, after: int, is_over: bool) -> None:
        """Start after event `after`; `is_over`: the job has ended, so there is nothing to await."""
        self._hub = hub
        self._job_id = job_id
        self._last = after
        self._is_over = is_over
        self._is_behind = True  # the database may have what we have not sent
        self._live: Subscription | None = None

    async def batches(self) -> AsyncIterator[list[StoredEvent]]:
        """Yield new events in order, and an empty list as a heartbeat, up to the final state."""
        await self._subscribe()
        spoke_at = time.monotonic()
        while not self._hub.stopping.is_set():
            fresh = await (self._replay() if self._is_behind else self._wait())
            is_due = time.monotonic() - spoke_at >= self._hub.heartbeat_seconds
            if is_due and not fresh and not self._is_behind:
                fresh = await self._replay()
            if fresh or is_due:
                yield fresh
                spoke_at = time.monotonic()
            if any(map(_is_final, fresh)) or (self._is_over and not self._is_behind):
                return

    async def _subscribe(self) -> None:
        live = Subscription(self._hub.redis, self._job_id)
        try:
            await live.subscribe()
        except RedisError as error:
            _log.debug("no live events for %s: %s", self._job_id, error)
        else:
            self._live = live
        self._is_behind = True

    async def _replay(self) -> list[StoredEvent]:
        """Return the next page from the database."""
        try:
            fresh = await run_in_threadpool(self._read)
        except OperationalError as error:
            _log.warning("no events for %s: %s", self._job_id, error)
            self._is_behind = True
            await asyncio.sleep(POLL_SECONDS)
            return []
        self._is_behind = len(fresh) == PAGE_SIZE
        if fresh:
            self._last = fresh[-1].id
        return fresh

    def _read(self) -> list[StoredEvent]:
        with self._hub.database.transaction() as tx:
            return events.read(tx, self._job_id, after=self._last, limit=PAGE_SIZE)

    async def _wait(self) -> list[StoredEvent]:
        """Return what the Redis stream brings within a moment."""
        if self._live is None:
            await asyncio.sleep(POLL_SECONDS)
            await self._subscribe()
            return []
        try:
            arrived = await self._live.wait(seconds=POLL_SECONDS)
        except (RedisError, ValueError, KeyError, TypeError) as error:
            # Redis is gone, or holds what we did not write.
            _log.debug("live events for %s ended: %s", self._job_id, error)
            self._live = None
            return []
        return self._in_order(arrived)

    def _in_order(self, arrived: list[StoredEvent]) -> list[StoredEvent]:
        fresh = []
        for event in arrived:
            if event.id <= self._last:
                continue
            if event.id > self._last + 1:
                self._is_behind = True
                break
            self._last = event.id
            fresh.append(event)
        return fresh


class CutStream(EventSourceResponse):
    """A stream that ends when its reader takes nothing for too long.

    Nothing is kept for a slow reader but the page in hand: it is asked of the database when it can
    be sent. One that takes nothing at all is cut, and goes on with `Last-Event-ID`.
    """

    async def stream_response(self, send: Send) -> None:
        async def send_soon(message: Message) -> None:
            async with asyncio.timeout(MAX_SEND_SECONDS):
                await send(message)

        try:
            await super().stream_response(send_soon)
        except TimeoutError:
            # The server closes the connection of an answer that does not end.
            _log.info("a reader took nothing for %g s: cut", MAX_SEND_SECONDS)


async def encoded(batches: AsyncIterator[list[StoredEvent]]) -> AsyncIterator[bytes]:
    """Yield events in the form of `text/event-stream`."""
    async for batch in batches:
        if not batch:
            yield format_sse_event(comment="heartbeat")
            continue
        yield b"".join(
            format_sse_event(
                id=str(event.id), event=event.type, data_str=Event.of(event).model_dump_json()
            )
            for event in batch
        )


def _is_final(event: StoredEvent) -> bool:
    return event.type == EventType.STATE and event.data.get("state") in FINAL
