"""Watches whether this worker still hears the bell.

After Redis has reset its connections, or a network has swallowed them, a Celery consumer may stay
connected and silent for ever (celery#8030, #10205, #10302), with every look at it green. So nobody
asks the consumer: while a slot is free and none has come, one that waits is not heard. Then the
worker ends, having saved and handed back what it runs, and whoever supervises it starts it anew.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import redis

from jobs.feed import open_redis
from jobs.queue import QUEUE

SILENT_SECONDS = 10.0  # within 30 of a message that was lost with its connection: one is rung again
LOOK_SECONDS = 2.0
ALIVE_FILE = "worker.alive"

_log = logging.getLogger(__name__)


class Listening:
    """Looks at the queue in a thread of its own; calls `on_silence` once if nobody takes from it.

    As long as all is well it touches a file, for probes that ask whether the worker lives.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        alive: Path,
        has_free_slot: Callable[[], bool],
        num_heard: Callable[[], int],
        on_silence: Callable[[], object],
        silent_seconds: float = SILENT_SECONDS,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._client = open_redis(redis_url)
        self._alive = alive
        self._has_free_slot = has_free_slot
        self._num_heard = num_heard
        self._num_heard_before = 0
        self._on_silence = on_silence
        self._silent_seconds = silent_seconds
        self._look_seconds = look_seconds
        self._waiting_since: float | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="listening", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End looking."""
        self._ended.set()
        if self._thread.is_alive():  # or the worker never was ready
            self._thread.join(self._silent_seconds)
        self._alive.unlink(missing_ok=True)

    def _watch(self) -> None:
        while not self._ended.is_set():
            if self._is_silent():
                _log.error(
                    "messages wait, a slot is free, and nothing was heard for %g s: ending",
                    self._silent_seconds,
                    extra={"action": "consumer_silent"},
                )
                self._on_silence()
                return
            self._touch()
            self._ended.wait(self._look_seconds)

    def _is_silent(self) -> bool:
        try:
            is_waiting = self._has_free_slot() and int(self._client.llen(QUEUE)) > 0
        except redis.RedisError as error:  # nobody could hear anything
            _log.warning("Redis is out of reach: %s", error, extra={"action": "redis_lost"})
            is_waiting = False
        num_heard = self._num_heard()
        if not is_waiting or num_heard != self._num_heard_before:
            self._num_heard_before = num_heard
            self._waiting_since = None
            return False
        now = time.monotonic()
        self._waiting_since = self._waiting_since or now
        return now - self._waiting_since >= self._silent_seconds

    def _touch(self) -> None:
        try:
            self._alive.touch()
        except OSError as error:
            _log.warning("could not touch %s: %s", self._alive, error)
