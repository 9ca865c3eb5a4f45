"""A process with torch that looks at jobs, for the API, which never imports it (ADR 26).

The first inspection starts a fork server, which takes as long as importing torch; the ones after
it are forked in milliseconds. Each is bounded in time and memory, and ends with its answer.
"""

import contextlib
import importlib.util
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from jobs.settings import Settings
from trainer_core.children import Child, ExecutedChild, ForkedChild, training_environment
from trainer_core.inspection import Findings

_LOOK_SECONDS = 0.01
_IDLE_SECONDS = 900.0  # after which the fork server's memory is given back
_NUM_THREADS = 1
_COMMAND = (sys.executable, "-m", "trainer_core.training")

_log = logging.getLogger(__name__)


class CannotInspect(Exception):
    """Nobody can look at a job here, or not in time; the message says why."""


class Inspector:
    """Starts the processes that look at jobs."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server: _Server | None = None
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise CannotInspect where nobody could look at any job."""
        if importlib.util.find_spec("torch") is None:
            raise CannotInspect("this machine of the API has no torch, which workers alone need")

    def inspect(self, folder: Path) -> Findings:
        """Return what is found of the job in a run directory, or raise CannotInspect."""
        self.check()
        deadline = time.monotonic() + self._settings.inspect_seconds
        try:
            child = self._start(folder, deadline)
        except OSError as error:
            raise CannotInspect(f"no process to look at it could be started: {error}") from error
        code = _waited(child, folder, deadline)
        findings = Findings.read(folder)
        if findings is None:
            why = f"took longer than {self._settings.inspect_seconds:g} seconds"
            if code is not None:
                why = f"ended with exit code {code}"
                _log.warning("an inspection died: %s", _last_words(folder))
            raise CannotInspect(f"the process that looks at it {why}")
        return findings

    def close(self) -> None:
        """End the fork server."""
        with self._lock:
            self._let_go()

    def _start(self, folder: Path, deadline: float) -> Child:
        environment = training_environment(_NUM_THREADS)
        with (folder / "log.txt").open("ab") as output:
            if self._settings.fork_server is not None:
                server = self._settings.fork_server
                return ForkedChild(server, output=output, environment=environment)
            if sys.platform != "linux":
                command = (*_COMMAND, "--supervised")
                return ExecutedChild(command, output=output, environment=environment)
            with self._lock:
                server = self._own_server(environment)
            _wait_for(server, deadline)
            return ForkedChild(server, output=output, environment=environment)

    def _own_server(self, environment: dict[str, str]) -> Path:
        """Return the socket of the fork server, which is started if there is none."""
        if self._server is None or not self._server.is_alive():
            self._let_go()
            self._server = _Server(environment)
        self._server.postpone_end(self._end_idle)
        return self._server.socket

    def _end_idle(self) -> None:
        with self._lock:
            if self._server is not None and self._server.is_idle():
                self._let_go()

    def _let_go(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None


class _Server:
    """A fork server of this process, which ends with it."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="luthier-inspect-"))  # a socket's path is short
        self.socket = self._folder / "socket"
        with (self._folder / "log.txt").open("ab") as output:
            self._process = subprocess.Popen(
                (*_COMMAND, "--fork-server", str(self.socket)),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
        self._timer: threading.Timer | None = None
        self._idle_at = 0.0

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def is_idle(self) -> bool:
        return time.monotonic() >= self._idle_at

    def postpone_end(self, end: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._idle_at = time.monotonic() + _IDLE_SECONDS
        self._timer = threading.Timer(_IDLE_SECONDS, end)
        self._timer.daemon = True
        self._timer.start()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        assert self._process.stdin is not None, "it has a pipe"
        self._process.stdin.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _wait_for(socket: Path, deadline: float) -> None:
    while not socket.exists():
        if time.monotonic() > deadline:
            raise CannotInspect("the process that looks at jobs is still starting; ask again")
        time.sleep(_LOOK_SECONDS)


def _waited(child: Child, folder: Path, deadline: float) -> int | None:
    """Give a child its order and return its exit code, or None if it had to be killed."""
    order = {"run_dir": str(folder), "inspect": True}
    try:
        with contextlib.suppress(BrokenPipeError):  # it has died; its exit code says so
            child.stdin.write(json.dumps(order).encode() + b"\n")
            child.stdin.flush()
        while (code := child.poll()) is None and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
        return code
    finally:
        with contextlib.suppress(ProcessLookupError):  # nobody is left
            os.killpg(child.pid, signal.SIGKILL)
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
        child.wait()
        child.close()


def _last_words(folder: Path) -> str:
    return (folder / "log.txt").read_text("utf-8", errors="replace")[-2000:]
