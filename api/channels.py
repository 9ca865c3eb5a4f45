"""One subscription a job for all who watch it: read once, decoded once, encoded once.

A channel keeps the newest events of its job; a reader looks at them by number. So a slow reader
costs nothing but its place: what has left the channel by the time that it looks, it reads from the
database. A gap, or a Redis that is gone, wakes the readers too, and sends them there.
"""

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property

import redis.asyncio
from fastapi.sse import format_sse_event
from redis.exceptions import RedisError

from api.schemas import Event
from jobs.feed import Subscription
from jobs.records import StoredEvent

POLL_SECONDS = 1.0  # how soon a lost subscription is noticed, and tried again
KEPT = 200  # events a channel holds

_log = logging.getLogger(__name__)


class Told:
    """An event, and the bytes that tell it, made once for all readers."""

    def __init__(self, event: StoredEvent) -> None:
        self.event = event

    @cached_property
    def encoded(self) -> bytes:
        """The event in the form of `text/event-stream`."""
        return format_sse_event(
            id=str(self.event.id),
            event=self.event.type,
            data_str=Event.of(self.event).model_dump_json(),
        )


@dataclass(slots=True)
class Channel:
    """What came of one job lately."""

    num_readers: int = 0
    version: int = 0  # of what readers have to look at
    num_resets: int = 0  # how often events may have been missed
    ready: asyncio.Event = field(default_factory=asyncio.Event)  # it was tried to subscribe
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    newest: OrderedDict[int, Told] = field(default_factory=OrderedDict)
    task: asyncio.Task[None] | None = None

    def after(self, last: int, *, limit: int) -> list[Told] | None:
        """Return the events that follow `last`; None if the database is to be asked."""
        if not self.newest or next(reversed(self.newest)) <= last:
            return []
        found = []
        for number in range(last + 1, last + 1 + limit):
            if (told := self.newest.get(number)) is None:
                break
            found.append(told)
        return found or None

    def take(self, event: StoredEvent) -> None:
        """Hold an event, if it is newer than those that are held, and forget the oldest."""
        if self.newest and event.id <= next(reversed(self.newest)):
            return
        self.newest[event.id] = Told(event)
        if len(self.newest) > KEPT:
            self.newest.popitem(last=False)

    def reset(self) -> None:
        """Hold nothing, and send every reader to the database."""
        self.num_resets += 1
        self.newest.clear()
        self.wake()
        self.ready.set()

    def wake(self) -> None:
        """Let every reader look."""
        self.version += 1
        self.changed.set()
        self.changed = asyncio.Event()


class Channels:
    """The channels of a process, one for each job that is watched."""

    def __init__(self, client: redis.asyncio.Redis, *, stopping: asyncio.Event) -> None:
        self._client = client
        self._stopping = stopping
        self._channels: dict[str, Channel] = {}

    async def join(self, job_id: str) -> Channel:
        """Return the channel of a job, subscribed if Redis is there; `leave` it afterwards."""
        channel = self._channels.get(job_id)
        if channel is None:
            channel = self._channels[job_id] = Channel()
            channel.task = asyncio.create_task(self._feed(job_id, channel))
        channel.num_readers += 1
        try:
            await channel.ready.wait()
        except asyncio.CancelledError:
            self.leave(job_id, channel)
            raise
        return channel

    def leave(self, job_id: str, channel: Channel) -> None:
        """Say that a reader has gone; the last one ends the subscription."""
        channel.num_readers -= 1
        if not channel.num_readers:
            assert channel.task is not None
            channel.task.cancel()
            del self._channels[job_id]

    async def _feed(self, job_id: str, channel: Channel) -> None:
        while True:
            live = Subscription(self._client, job_id)
            try:
                await live.subscribe()
                channel.reset()  # what came before is in the database
                while True:
                    arrived = await live.wait(seconds=POLL_SECONDS)
                    for event in arrived:
                        channel.take(event)
                    if arrived or self._stopping.is_set():
                        channel.wake()
            except (RedisError, ValueError, KeyError, TypeError) as error:
                # Redis is gone, or holds what we did not write.
                _log.debug("live events for %s ended: %s", job_id, error)
                channel.reset()
                await asyncio.sleep(POLL_SECONDS)
