"""The lease on a job, renewed by a thread for as long as the attempt lasts."""

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

from sqlalchemy.exc import DBAPIError, OperationalError

from jobs.records import Job
from jobs.store import attempts
from jobs.store.attempts import Held
from jobs.store.events import LeaseLost
from jobs.transaction import Database

MAX_RENEWAL_SECONDS = 1.0  # how late a request to cancel or pause is noticed
_WATCH_SECONDS = 0.2
_MARGIN = 0.8  # share of the lease after which a worker that can't renew gives up

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Lease:
    """Holds a job; learns of requests; calls `on_loss` once if the job is no longer held.

    One thread renews; another watches this machine's monotonic clock, so that the lease is given
    up before it ends by the database's clock even while a renewal hangs.
    """

    def __init__(
        self, database: Database, job: Job, *, seconds: float, on_loss: Callable[[], object]
    ) -> None:
        self._database = database
        self._job = job
        self._seconds = seconds
        self._on_loss = on_loss
        self._ended = threading.Event()
        self._deadline = time.monotonic() + seconds * _MARGIN
        self._threads = [
            threading.Thread(target=target, name=f"lease-{job.id}", daemon=True)
            for target in (self._renew_often, self._watch_clock)
        ]
        self.held = Held(job.state, keep=job.keep)
        self.is_lost = False

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.let_go()
        for thread in self._threads:
            thread.join(timeout=self._seconds)

    def let_go(self) -> None:
        """Stop renewing: the attempt has ended."""
        self._ended.set()

    def check(self) -> None:
        """Raise LeaseLost if the job is no longer held."""
        if self.is_lost:
            raise LeaseLost(f"attempt {self._job.attempt} lost {self._job.id}")

    def renew(self) -> Held:
        """Renew now and return what is asked of the job, or raise LeaseLost."""
        started = time.monotonic()
        with self._database.transaction() as tx:
            self.held = attempts.renew(
                tx, self._job.id, attempt=self._job.attempt, lease_seconds=self._seconds
            )
        self._deadline = started + self._seconds * _MARGIN
        return self.held

    def persist(self, write: Callable[[], _T]) -> _T:
        """Do something with the database, again and again while it can't be reached.

        Raises:
            LeaseLost: the lease ran out over it.
        """
        while True:
            self.check()
            try:
                return write()
            except DBAPIError as error:
                is_out_of_reach = isinstance(error, OperationalError)
                if not (is_out_of_reach or error.connection_invalidated):
                    raise
                _log.warning("the database is out of reach, trying again: %s", error.orig)
                time.sleep(1)

    def _renew_often(self) -> None:
        while not self._ended.wait(min(self._seconds / 3, MAX_RENEWAL_SECONDS)):
            try:
                self.renew()
            except LeaseLost:
                self._lose("another attempt or state took its place")
                return
            except DBAPIError as error:
                _log.warning("could not renew the lease of %s: %s", self._job.id, error.orig)

    def _watch_clock(self) -> None:
        while not self._ended.wait(_WATCH_SECONDS):
            if time.monotonic() >= self._deadline:
                self._lose("the database was out of reach for most of the lease")
                return

    def _lose(self, reason: str) -> None:
        if self._ended.is_set() or self.is_lost:
            return  # the attempt has just ended by itself
        self.is_lost = True
        _log.error(
            "lost the lease of %s: %s",
            self._job.id,
            reason,
            extra={"action": "lease_lost", "job_id": self._job.id},
        )
        self._on_loss()
