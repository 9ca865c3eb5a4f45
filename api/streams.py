"""Following a job's events live, with no gap and no double.

Order is all: join the job's channel first, replay from the database second, follow the channel
third. What was published in between comes twice and is dropped by its number; a number that is
missing sends us to the database, and so do a heartbeat and a Redis that is gone. A stream holds no
database connection between two reads. It asks for the key of its reader before it says anything,
and ends when that works no more.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import redis.asyncio
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, format_sse_event
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from sqlalchemy.exc import OperationalError
from starlette.types import Message, Send

from api.channels import POLL_SECONDS, Channel, Channels, Told
from api.keyring import Caller, Keyring
from jobs.records import StoredEvent
from jobs.states import FINAL
from jobs.store import events
from jobs.transaction import Database
from trainer_core.events import EventType

PAGE_SIZE = 25  # all that is read for a reader who takes it slowly
MAX_SEND_SECONDS = 60.0  # for one page to be taken

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Hub:
    """What every stream of this process shares."""

    database: Database
    keyring: Keyring
    channels: Channels
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

    def __init__(self, hub: Hub, job_id: str, *, caller: Caller, after: int, is_over: bool) -> None:
        """Start after event `after`; `is_over`: the job has ended, so there is nothing to await."""
        self._hub = hub
        self._caller = caller
        self._job_id = job_id
        self._last = after
        self._is_over = is_over
        self._is_behind = True  # the database may have what we have not sent
        self._asked = (0, 0)  # version and resets of the channel when the database was asked

    async def batches(self) -> AsyncIterator[list[Told]]:
        """Yield new events in order, and an empty list as a heartbeat, up to the final state."""
        channel = await self._hub.channels.join(self._job_id)
        try:
            spoke_at = time.monotonic()
            while not self._hub.stopping.is_set():
                due_at = spoke_at + self._hub.heartbeat_seconds
                if self._is_behind:
                    fresh = await self._replay(channel)
                else:
                    fresh = await self._wait(channel, until=due_at)
                is_due = time.monotonic() >= due_at
                if is_due and not fresh and not self._is_behind:
                    fresh = await self._replay(channel)
                is_last = any(map(_is_final, fresh))
                if fresh or is_due:
                    if not await self._is_admitted(is_heartbeat=not fresh):
                        return
                    handed = [fresh]
                    fresh = []  # a reader may take long: only what it is sent waits for it
                    yield handed.pop()
                    spoke_at = time.monotonic()
                if is_last or (self._is_over and not self._is_behind):
                    return
        finally:
            self._hub.channels.leave(self._job_id, channel)

    async def _is_admitted(self, *, is_heartbeat: bool) -> bool:
        """Return whether the reader's key works; what is to be told waits until that is known."""
        while not self._hub.stopping.is_set():
            try:
                return await self._hub.keyring.still_admits(self._caller)
            except OperationalError as error:
                _log.warning("no look at a key: %s", error)
                if is_heartbeat:
                    return True
                await asyncio.sleep(POLL_SECONDS)
        return False

    async def _replay(self, channel: Channel) -> list[Told]:
        """Return the next page from the database."""
        self._asked = (channel.version, channel.num_resets)
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
        return list(map(Told, fresh))

    def _read(self) -> list[StoredEvent]:
        with self._hub.database.transaction() as tx:
            return events.read(tx, self._job_id, after=self._last, limit=PAGE_SIZE)

    async def _wait(self, channel: Channel, *, until: float) -> list[Told]:
        """Return what the channel has, or brings before a time of the monotonic clock."""
        changed = channel.changed
        if not (found := self._look(channel)) and not self._is_behind:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, until - time.monotonic())):
                    await changed.wait()
            found = self._look(channel)
        if found:
            self._last = found[-1].event.id
        return found

    def _look(self, channel: Channel) -> list[Told]:
        """Return what the channel has next; if it has missed or lost that, we are behind."""
        found = channel.after(self._last, limit=PAGE_SIZE)
        version, num_resets = self._asked
        if channel.num_resets != num_resets or (found is None and channel.version != version):
            self._is_behind = True
            return []
        return found or []


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


async def encoded(batches: AsyncIterator[list[Told]]) -> AsyncIterator[bytes]:
    """Yield events in the form of `text/event-stream`."""
    async for batch in batches:
        if not batch:
            yield format_sse_event(comment="heartbeat")
            continue
        told = b"".join(one.encoded for one in batch)
        del batch  # as above
        yield told


def _is_final(told: Told) -> bool:
    event = told.event
    return event.type == EventType.STATE and event.data.get("state") in FINAL
