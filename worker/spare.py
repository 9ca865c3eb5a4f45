"""The warm spare: one training process that has imported everything and waits for a job."""

import logging

from jobs.settings import Settings
from worker.process import Limits, TrainingProcess

_log = logging.getLogger(__name__)


class Spare:
    """Keeps one process ready, if the settings want that."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._waiting: TrainingProcess | None = None

    def refill(self) -> None:
        """Start a process, unless one waits; that none can be started is no harm yet."""
        if self._waiting is not None or not self._settings.warm_spare:
            return
        try:
            self._waiting = self._start()
        except OSError as error:
            _log.warning("no spare: %s", error, extra={"action": "spare_failed"})

    def take(self) -> TrainingProcess:
        """Return the waiting process, or a new one; OSError if none can be started."""
        process, self._waiting = self._waiting, None
        if process is not None and process.poll() is None:
            return process
        if process is not None:
            _log.warning("the spare training process had died: exit code %s", process.kill())
        return self._start()

    def close(self) -> None:
        """End the waiting process."""
        if self._waiting is not None:
            self._waiting.kill()
            self._waiting = None

    def _start(self) -> TrainingProcess:
        return TrainingProcess(
            log=self._settings.home / "logs" / "training.log",
            num_threads=self._settings.num_training_threads,
            fork_server=self._settings.fork_server,
            limits=Limits(self._settings.job_open_files, self._settings.job_file_bytes),
        )
