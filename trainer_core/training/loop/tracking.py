"""Experiment trackers beside a run: none can fail it, hold it up, or keep it from ending."""

import hashlib
import queue
import re
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from trainer_core.errors import InvalidSetting
from trainer_core.events import Event, MetricsMeasured, Reporter, Warned
from trainer_core.run_directory import Inputs, Result, RunDirectory
from trainer_core.spec import JobSpec
from trainer_core.training.loop.trackers import TRACKERS, TrackedRun, parameters_of

_MAX_WAITING = 10_000  # reports of figures to one tracker
_CLOSING_SECONDS = 30.0
_USER_OF_ADDRESS = re.compile(r"//\S*@")  # to the last @: a password may have one, and a /
_NOT_HANDED_OUT = shutil.ignore_patterns("logs", "tmp", "*.log", "*.lock", ".*")


class Tracking:
    """The reporter that passes figures on to a job's trackers, each in a thread of its own.

    A tracker that fails is told of once and left out from then on. There are no figures before
    `begin`.
    """

    def __init__(self, reporter: Reporter) -> None:
        """Keep to whom failures are told."""
        self._reporter = reporter
        self._watchers: list[_Watcher] = []

    def begin(self, names: Sequence[str], run: TrackedRun) -> None:
        """Start the trackers; they get ready while the run goes on."""
        folders = {name: run.folder / name for name in dict.fromkeys(names)}
        self._watchers = [_Watcher(name, run, folder) for name, folder in folders.items()]

    def report(self, event: Event) -> None:
        if isinstance(event, MetricsMeasured):
            for watcher in self._watchers:
                watcher.pass_on(event)
        self._tell()

    def close(self, result: Result) -> None:
        """Let the trackers end, for so long as is fair to whoever waits for the run."""
        deadline = time.monotonic() + _CLOSING_SECONDS
        for watcher in self._watchers:
            watcher.pass_on(result)
        for watcher in self._watchers:
            watcher.wait(deadline)
        self._tell()
        self._watchers = []

    def _tell(self) -> None:
        for watcher in [one for one in self._watchers if one.failure]:
            self._watchers.remove(watcher)
            message = f"{watcher.name} gets no further figures of this run: {watcher.failure}."
            self._reporter.report(Warned("tracker_failed", message, watcher.hint))


class _Watcher:
    """One tracker in its thread. Libraries that wait for a server do so here."""

    def __init__(self, name: str, run: TrackedRun, folder: Path) -> None:
        self.name = name
        self.hint = ""
        self.failure = ""  # why it failed, once it has; set last, as other threads look at it
        self._told = replace(run, folder=folder)
        self._waiting: queue.Queue[MetricsMeasured | Result] = queue.Queue(maxsize=_MAX_WAITING)
        self._thread = threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def pass_on(self, told: MetricsMeasured | Result) -> None:
        try:
            self._waiting.put_nowait(told)
        except queue.Full:
            self.failure = self.failure or f"{_MAX_WAITING} figures wait to be sent"
            self.hint = "See whether its server can be reached."

    def wait(self, deadline: float) -> None:
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive() and not self.failure:
            self.failure = f"it did not end within {_CLOSING_SECONDS:.0f} seconds"
            self.hint = "See whether its server can be reached."

    def _work(self) -> None:
        try:
            tracker = TRACKERS[self.name](self._told)
            while not isinstance(told := self._waiting.get(), Result):
                tracker.report(told)
            tracker.close(told)
        except ModuleNotFoundError as error:
            self.hint = f"Run `pip install 'luthier[{self.name}]'` there."
            self.failure = f"the package '{error.name}' is not installed on the worker"
        except InvalidSetting as error:
            self.hint = error.hint
            self.failure = error.message.rstrip(".")
        except BaseException as error:  # noqa: BLE001 - SystemExit too: a stranger's library
            # Its words can hold the worker's addresses and keys, and the job's owner reads these.
            kind, words = type(error).__name__, without_secrets(str(error))
            sys.stderr.write(f"{self.name}: {kind}: {words}\n")
            self.hint = "See the log, and its settings in the environment of the worker."
            self.failure = kind


def without_secrets(text: str) -> str:
    """Return a text with the users and passwords of addresses in it left out."""
    return _USER_OF_ADDRESS.sub("//", text)


def tracked_run(
    directory: RunDirectory, *, spec: JobSpec, inputs: Inputs, first_step: int
) -> TrackedRun:
    """Return what trackers are told of a run with a resolved spec."""
    own = hashlib.sha256(str(directory.path).encode()).hexdigest()[:12]
    identity = re.sub(r"[^A-Za-z0-9_-]", "-", inputs.run_id or f"run-{own}")
    return TrackedRun(
        name=spec.name or inputs.run_id or identity,
        identity=identity,
        first_step=first_step,
        parameters=parameters_of(spec),
        labels=spec.labels,
        folder=directory.tracking,
    )


def copy_tracking(source: Path, target: Path) -> None:
    """Copy the trackers' files without their logs, which tell of this machine."""
    if source.exists():
        shutil.copytree(source, target, ignore=_NOT_HANDED_OUT)
