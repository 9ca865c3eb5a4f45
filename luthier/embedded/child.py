"""One supervised server process.

A server must not outlive its supervisor, even one that was killed with SIGKILL. On Linux the
kernel sees to that: each child asks for its stop signal on its parent's death (PR_SET_PDEATHSIG).
Two facts shape the code:

- "Parent" means the **thread** that created the child. Start a server from a thread that lives as
  long as the server should, in practice the main thread.
- Changing the user clears the request, so it is made between setuid and exec, which is where
  `subprocess` calls `preexec_fn`. There is no way to make it from outside.

Elsewhere (macOS) nothing kills an orphan; the next start on the same data stops it: see
`stop_orphan`.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from signal import Signals

from luthier.embedded.account import Account
from trainer_core.errors import ServerFailed

_PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>
_PROBE_INTERVAL_SECONDS = 0.05
_PID_WRITING_SECONDS = 1.0
_LOG_TAIL_BYTES = 1500
_LOG_ROTATION_BYTES = 5_000_000
_CLEAN_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


class Child:
    """A server process, its log file and the way to stop it."""

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        log: Path,
        stop_signals: Sequence[Signals] = (Signals.SIGTERM,),
        account: Account | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Describe the process; `start` runs it.

        Args:
            argv: the command. `argv[0]` must be absolute: servers look for their libraries and
                data files beside the path that they were started by.
            log: receives stdout and stderr, appended.
            stop_signals: sent in turn by `stop`; the first is also sent when this process dies.
            account: whom to run as, which takes root; None means as this process.
            environment: its variables; None means a clean set, in which no PG* or locale variable
                of the user changes a server.
        """
        self._argv = [str(part) for part in argv]
        assert Path(self._argv[0]).is_absolute(), self._argv[0]
        self.log = log
        self._stop_signals = tuple(stop_signals)
        self._account = account
        self._environment = _CLEAN_ENVIRONMENT if environment is None else dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def name(self) -> str:
        return Path(self._argv[0]).name

    @property
    def pid(self) -> int:
        return self._running().pid

    def start(self) -> None:
        """Start the process in a session of its own, out of reach of the terminal's Ctrl-C."""
        assert self._process is None, f"{self.name} was started already"
        account = self._account
        log = _open_log(self.log)
        self._log_start = os.fstat(log).st_size
        try:
            self._process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=self._environment,
                umask=0o077,
                start_new_session=True,
                preexec_fn=_die_with_parent(self._stop_signals[0]),  # noqa: PLW1509  one prctl call
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise ServerFailed(f"{self._argv[0]} can't be started: {error}") from error
        finally:
            os.close(log)

    def wait_until_ready(
        self,
        probe: Callable[[], object],
        *,
        not_yet: type[Exception],
        timeout_seconds: float,
    ) -> None:
        """Call `probe` until it returns.

        Args:
            probe: returns when the server answers, and raises `not_yet` while it does not.
            not_yet: the exception that means "ask again".
            timeout_seconds: how long to go on asking.

        Raises:
            ServerFailed: the server ended, or did not answer in time.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                probe()
            except not_yet as error:
                last_answer = str(error).strip()
            else:
                return
            status = self.poll()
            if status is not None:
                raise self._failed(f"ended with status {status} before it was ready")
            if time.monotonic() > deadline:
                raise self._failed(f"did not answer in {timeout_seconds:g} s ({last_answer})")
            time.sleep(_PROBE_INTERVAL_SECONDS)

    def wait_until_done(self, *, timeout_seconds: float) -> None:
        """Wait for a process that ends by itself.

        Raises:
            ServerFailed: it failed, or took too long and was stopped.
        """
        try:
            status = self._running().wait(timeout_seconds)
        except subprocess.TimeoutExpired as error:
            raise self._failed(f"did not finish in {timeout_seconds:g} s") from error
        finally:
            self.stop(timeout_seconds=5)
        if status != 0:
            raise self._failed(f"failed with status {status}")

    def poll(self) -> int | None:
        """Return None while the process runs, else its exit status (negative: a signal)."""
        return self._running().poll()

    def stop(self, *, timeout_seconds: float) -> None:
        """End the process and reap it: each stop signal in turn, then SIGKILL.

        Args:
            timeout_seconds: how long each signal may take.
        """
        process = self._running()
        for stop_signal in self._stop_signals:
            process.send_signal(stop_signal)  # does nothing once the process was reaped
            try:
                process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                continue
            return
        process.kill()
        process.wait()

    def _running(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None, f"{self.name} was not started"
        return self._process

    def _failed(self, what: str) -> ServerFailed:
        with self.log.open("rb") as file:
            file.seek(max(self._log_start, os.fstat(file.fileno()).st_size - _LOG_TAIL_BYTES))
            tail = file.read().decode(errors="replace").strip()
        message = f"{self.name} {what}. The end of {self.log}:\n{tail or '(empty)'}\n"
        return ServerFailed(message, detail={"log": str(self.log)})


def stop_orphan(pid_file: Path, *, marker: str, stop_signals: Sequence[Signals]) -> None:
    """Stop the server that a dead supervisor left on its data, and wait until it is gone.

    The caller holds the lock of the data, so whatever server is found there has no supervisor. On
    Linux it has its stop signal already and is on its way out.

    Args:
        pid_file: where the server keeps its pid, on the first line.
        marker: a part of the server's command line that no other process has. A pid alone proves
            nothing: after a reboot it may belong to anything.
        stop_signals: sent in turn, 30 seconds apart.
    """
    pid = _read_pid(pid_file)
    if pid is None:
        return
    for stop_signal in (*stop_signals, Signals.SIGKILL):
        deadline = time.monotonic() + 30
        if _signal_if_marked(pid, marker=marker, signal_number=stop_signal):
            return
        while time.monotonic() < deadline:
            if marker not in _command_line(pid):
                return
            time.sleep(_PROBE_INTERVAL_SECONDS)
    raise ServerFailed(
        f"process {pid} still runs on the data of {pid_file.parent} and can't be stopped.",
        hint=f"End it with `kill -9 {pid}` and start again.",
    )


def _signal_if_marked(pid: int, *, marker: str, signal_number: Signals) -> bool:
    """Send a signal to our orphan; return True when there is none."""
    if marker not in _command_line(pid):
        return True
    try:
        os.kill(pid, signal_number)
    except ProcessLookupError:
        return True
    return False


def _read_pid(pid_file: Path) -> int | None:
    deadline = time.monotonic() + _PID_WRITING_SECONDS
    while True:
        try:
            first_line, newline, _ = pid_file.read_text().partition("\n")
        except FileNotFoundError:
            return None
        if newline and first_line.strip().isdigit():
            return int(first_line)
        if time.monotonic() > deadline:
            return None
        time.sleep(_PROBE_INTERVAL_SECONDS)  # an orphan that only just starts is writing it


def _command_line(pid: int) -> str:
    """Return a process's arguments joined by spaces, with one at the end; '' if it is gone.

    A process that ended and was not reaped has no arguments either.
    """
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            return ""
    answer = subprocess.run(
        ["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, check=False, text=True
    )
    return answer.stdout.strip() + " "


def _open_log(log: Path) -> int:
    if log.exists() and log.stat().st_size > _LOG_ROTATION_BYTES:
        log.replace(log.with_suffix(".log.1"))
    return os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)


def _die_with_parent(death_signal: Signals) -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up here: between fork and exec do as little as can be
    parent = os.getpid()

    def request() -> None:
        prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the request was made
            os.kill(os.getpid(), signal.SIGKILL)

    return request
