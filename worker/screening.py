"""Hands to Celery what rings the bell, and nothing else that lies in its queue.

Whoever can write to Redis can put there what they like. One message that is no JSON, or lacks a
field, ends a Celery worker, and some come back at each start. So each is looked at as it arrives,
before kombu reads it; what `Bell` has not sent is dropped and counted, and its content not logged.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis
from kombu.transport import redis as transport

from jobs.queue import is_bell

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Heard:
    """What has come out of the queue to this process."""

    num_messages: int = 0
    num_dropped: int = 0


HEARD = Heard()
"""Of this process: kombu makes the objects below, so nothing can be handed to them."""


class _Client(redis.Redis):
    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        reply = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        if command_name != "BRPOP" or not reply:
            return reply
        HEARD.num_messages += 1
        if is_bell(reply[1]):
            return reply
        HEARD.num_dropped += 1
        _log.warning(
            "dropped a message of %d bytes that rings no bell (%d so far)",
            len(reply[1]),
            HEARD.num_dropped,
            extra={"action": "message_dropped"},
        )
        return None  # as if none had come


class _Unrestored(transport.QoS):  # type: ignore[misc]
    def restore_visible(self, *_: Any, **__: Any) -> None:
        """Restore nothing: a bell that a worker has lost is rung again by the sweeper."""


class _Channel(transport.Channel):  # type: ignore[misc]
    QoS = _Unrestored

    def _get_client(self) -> Callable[..., redis.Redis]:
        return _Client


class Screened(transport.Transport):  # type: ignore[misc]
    """Kombu's transport of Redis, for a worker."""

    Channel = _Channel
