"""Telling others after the commit from a thread of its own, so that no request waits for Redis.

What waits is told together. It is a hint only, as ever: what a process that dies has not told,
the sweeper rings again, and watchers read from the database.
"""

import logging
import queue
import threading
from collections.abc import Callable, Sequence

from jobs.records import StoredEvent

_MAX_WAITING = 10_000  # events and bells; Redis may hang
_MAX_TOGETHER = 100

_log = logging.getLogger(__name__)


class Teller:
    """Publishes events and rings for jobs, in order, a little later."""

    def __init__(
        self, publish: Callable[[list[StoredEvent]], None], ring: Callable[[list[str]], None]
    ) -> None:
        self._publish = publish
        self._ring = ring
        self._waiting: queue.Queue[StoredEvent | str | None] = queue.Queue(_MAX_WAITING)
        self._thread = threading.Thread(target=self._tell, name="teller", daemon=True)
        self._thread.start()

    def publish(self, events: Sequence[StoredEvent]) -> None:
        """Let watchers see events soon."""
        for event in events:
            self._put(event)

    def ring(self, job_ids: Sequence[str]) -> None:
        """Let the workers hear soon that jobs may be waiting."""
        for job_id in job_ids:
            self._put(job_id)

    def close(self, *, timeout_seconds: float = 2.0) -> None:
        """Tell what waits, as far as there is time, and end."""
        try:
            self._waiting.put(None, timeout=timeout_seconds)
        except queue.Full:
            return
        self._thread.join(timeout_seconds)

    def _put(self, what: StoredEvent | str) -> None:
        try:
            self._waiting.put_nowait(what)
        except queue.Full:
            _log.warning("%d wait to be told", _MAX_WAITING, extra={"action": "telling_failed"})

    def _tell(self) -> None:
        is_open = True
        while is_open:
            told = [self._waiting.get()]
            while len(told) < _MAX_TOGETHER and not self._waiting.empty():
                told.append(self._waiting.get_nowait())
            is_open = None not in told
            try:
                if events := [one for one in told if isinstance(one, StoredEvent)]:
                    self._publish(events)
                if job_ids := [one for one in told if isinstance(one, str)]:
                    self._ring(job_ids)
            except Exception:  # noqa: BLE001 - the next ones are told nevertheless
                _log.exception("could not tell", extra={"action": "telling_failed"})
