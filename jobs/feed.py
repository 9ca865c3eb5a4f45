"""The live feed: a Redis stream a job, a cache of the newest events for those who watch.

The database is the record. A watcher that sees a gap, a repetition or a Redis that is gone reads
the database; so nothing here has to be reliable, only quick.
"""

import json
import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import redis
import redis.asyncio
from redis.exceptions import RedisError

from jobs.records import StoredEvent

MAX_LENGTH = 1000  # events a stream keeps, about
EXPIRE_SECONDS = 3600
MAX_READ = 25  # events at once: a reader who takes them slowly has them all in memory

_log = logging.getLogger(__name__)


class Feed:
    """Writes events to the streams."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def publish(self, events: Sequence[StoredEvent]) -> None:
        """Append events to their jobs' streams; failing to is logged only."""
        try:
            with self._client.pipeline(transaction=False) as pipe:
                for event in events:
                    pipe.xadd(
                        stream_of(event.job_id),
                        {"event": json.dumps(to_json(event))},
                        maxlen=MAX_LENGTH,
                        approximate=True,
                    )
                for job_id in {event.job_id for event in events}:
                    pipe.expire(stream_of(job_id), EXPIRE_SECONDS)
                pipe.execute()
        except RedisError as error:
            _log.warning("could not publish: %s", error, extra={"action": "publish_failed"})


def open_redis(redis_url: str) -> redis.Redis:
    """Return a client whose calls give up soon: nothing in Redis is worth waiting for."""
    return redis.Redis.from_url(redis_url, socket_timeout=2, socket_connect_timeout=2)


class Subscription:
    """Reads one job's stream from the moment of subscribing."""

    def __init__(self, client: redis.asyncio.Redis, job_id: str) -> None:
        self._client = client
        self._stream = stream_of(job_id)
        self._last: Any = "$"

    async def subscribe(self) -> None:
        """Fix the place from which to read; raise RedisError if Redis is gone."""
        newest = await self._client.xrevrange(self._stream, count=1)
        self._last = newest[0][0] if newest else "0"

    async def wait(self, *, seconds: float) -> list[StoredEvent]:
        """Return the events that have come, waiting for the first at most so long."""
        answer: Any = await self._client.xread(
            {self._stream: self._last}, count=MAX_READ, block=max(1, int(seconds * 1000))
        )
        if not answer:
            return []
        entries = answer[0][1] if isinstance(answer, list) else next(iter(answer.values()))[0]
        self._last = entries[-1][0]
        return [from_json(json.loads(fields[b"event"])) for _, fields in entries]


def stream_of(job_id: str) -> str:
    """Return the name of a job's stream."""
    return f"luthier:events:{job_id}"


def to_json(event: StoredEvent) -> dict[str, Any]:
    """Return an event as watchers see it."""
    return {
        "id": event.id,
        "job_id": event.job_id,
        "attempt": event.attempt,
        "at": event.at.isoformat(),
        "type": event.type,
        "data": event.data,
    }


def from_json(values: dict[str, Any]) -> StoredEvent:
    """Return the event that `to_json` wrote."""
    return StoredEvent(**{**values, "at": datetime.fromisoformat(values["at"])})
