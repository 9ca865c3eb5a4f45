"""Saying, every few seconds, that this worker is there, and on what it trains."""

import logging
import threading

from sqlalchemy.exc import SQLAlchemyError

from jobs.records import WorkerDevice
from jobs.store import workers
from jobs.transaction import Database

_END_SECONDS = 5.0

_log = logging.getLogger(__name__)


class Presence:
    """A thread that tells the database of this worker, until it is closed."""

    def __init__(
        self, database: Database, name: str, *, num_slots: int, devices: tuple[WorkerDevice, ...]
    ) -> None:
        self._database = database
        self._name = name
        self._num_slots = num_slots
        self._devices = devices
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat_often, name="presence", daemon=True)

    def open(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End, and say so."""
        self._ended.set()
        self._thread.join(_END_SECONDS)
        try:
            with self._database.transaction() as tx:
                workers.leave(tx, self._name)
        except SQLAlchemyError as error:  # then it is known by its silence
            _log.warning("could not say good-bye: %s", error)

    def _beat_often(self) -> None:
        while True:
            try:
                with self._database.transaction() as tx:
                    workers.beat(tx, self._name, num_slots=self._num_slots, devices=self._devices)
            except SQLAlchemyError as error:  # another time
                _log.warning("could not say that this worker is there: %s", error)
            if self._ended.wait(workers.BEAT_SECONDS):
                return
