"""`luthier up`: the whole service on this machine, supervised, stopped in order.

PostgreSQL and Valkey, unless the settings name others; then the migrations; then the API and one
worker, each a child process. The order of stopping is the reverse: the worker saves and hands back
its jobs while there still is a database to hand them back to.
"""

import ipaddress
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from signal import Signals

from sqlalchemy.exc import OperationalError

from jobs.database import migrate
from jobs.settings import PREFIX, Settings
from luthier.embedded import EmbeddedPostgres, EmbeddedValkey, Home
from luthier.embedded.child import Child
from luthier.embedded.ports import free_port
from luthier.embedded.server import EmbeddedServer
from trainer_core.errors import ServerFailed

_READY_SECONDS = 120
_POLL_SECONDS = 0.2
_API_STOP_SECONDS = 10
_WORKER_MARGIN_SECONDS = 15  # beyond the grace that the worker gives its training processes
_RESTART_SECONDS = (1, 2, 5, 10, 30)


class _Part(ABC):
    """What is started again when it ends by itself, later and later each time."""

    name: str
    log: Path

    def __init__(self) -> None:
        self._num_restarts = 0
        self._restart_at: float | None = None  # None while it runs

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def stop(self) -> None: ...

    @abstractmethod
    def poll(self) -> int | None:
        """Return None while it runs, else the exit status that it ended with."""

    def keep_up(self) -> None:
        """Start it again if it has ended and its pause is over.

        Raises:
            ServerFailed: there is no use in trying again.
        """
        if self._restart_at is None:
            if (status := self.poll()) is not None:
                self._pause(f"ended by itself with status {status}")
        elif time.monotonic() >= self._restart_at:
            self._restart_at = None
            self.start()

    def _pause(self, why: str) -> None:
        seconds = _RESTART_SECONDS[min(self._num_restarts, len(_RESTART_SECONDS) - 1)]
        _say(f"{self.name} {why}; starting it again in {seconds} s. See {self.log}")
        self._num_restarts += 1
        self._restart_at = time.monotonic() + seconds


class _Service(_Part):
    """The API or the worker."""

    def __init__(
        self,
        name: str,
        argv: list[str],
        *,
        environment: dict[str, str],
        log: Path,
        stop_seconds: float,
    ) -> None:
        super().__init__()
        self.name = name
        self.log = log
        self._argv = argv
        self._environment = environment
        self._stop_seconds = stop_seconds
        self._child: Child | None = None

    def start(self) -> None:
        self._child = Child(self._argv, log=self.log, environment=self._environment)
        self._child.start()

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop(timeout_seconds=self._stop_seconds)

    def poll(self) -> int | None:
        return None if self._child is None else self._child.poll()


class _Server(_Part):
    """PostgreSQL or Valkey. The services bear its absence, and go on once it is back."""

    def __init__(self, server: EmbeddedServer) -> None:
        super().__init__()
        self.name = server.name
        self.log = server.log
        self._server = server
        self._url: str | None = None

    def start(self) -> None:
        self._server.stop()  # what is left of one that ended: the lock of its data
        try:
            url = self._server.start()
        except ServerFailed as error:
            if self._url is None:  # the first start
                raise
            self._pause(f"can't be started: {error.message}")
            return
        if self._url not in (None, url):
            raise ServerFailed(
                f"{self.name} ended by itself, and its port was taken meanwhile.",
                hint="`luthier up` starts all of it again, on another port.",
            )
        self._url = url

    def stop(self) -> None:
        self._server.stop()

    def poll(self) -> int | None:
        return self._server.poll()


def run(settings: Settings) -> int:
    """Run the whole service until SIGINT or SIGTERM and return the exit code.

    Raises:
        HomeInUse: another `luthier up` runs on the same home.
        ServerFailed: a part did not start, or came back where the others don't look for it.
    """
    asked = threading.Event()
    with _signals_set(asked), ExitStack() as stack:
        home = Home(settings.home)
        home.create()
        stack.enter_context(home.lock())
        port = _port(settings)
        servers, environment = _start_servers(settings, stack)
        _say("bringing the tables up to date")
        bring_up_to_date(environment[f"{PREFIX}DATABASE_URL"])
        api, worker = _services(settings, environment, home.logs, port)
        for service in (api, worker):
            stack.callback(_stop, service)
            service.start()
        url = f"http://{_reached_at(settings.host)}:{port}"
        _wait_until_ready(url, api, asked)
        if not asked.is_set():
            _greet(url, home, asks_for_keys=settings.asks_for_keys)
        while not asked.wait(_POLL_SECONDS):
            for part in (*servers, api, worker):
                part.keep_up()
        _say("stopping; running jobs are saved and go on at the next start")
    _say("stopped")
    return 0


def bring_up_to_date(database_url: str) -> None:
    """Bring the tables up to date, or raise ServerFailed if the database can't be reached."""
    try:
        migrate(database_url)
    except OperationalError as error:
        variable = f"{PREFIX}DATABASE_URL"
        reason = " ".join(str(error.orig).split()).rstrip(".")
        raise ServerFailed(
            f"the database can't be used: {reason}.",
            hint=f"Is it running, and is {variable} right?",
            param=variable,
        ) from error


def _port(settings: Settings) -> int:
    """Return the port for the API, which nobody else may have."""
    port = free_port(preferred=settings.port or None)
    if settings.port and port != settings.port:
        raise ServerFailed(
            f"port {settings.port} of {settings.host} is taken.",
            hint="Another service may run there; choose one with --port or LUTHIER_PORT.",
        )
    return port


def _start_servers(settings: Settings, stack: ExitStack) -> tuple[list[_Server], dict[str, str]]:
    """Start the servers that the settings do not name; return them and the children's settings."""
    servers: list[_Server] = []

    def started(server: EmbeddedServer) -> str:
        _say(f"starting {server.name}")
        part = _Server(server)
        stack.callback(part.stop)
        part.start()
        servers.append(part)
        return server.url

    database_url = settings.database_url or started(EmbeddedPostgres(settings.home))
    redis_url = settings.redis_url or started(EmbeddedValkey(settings.home))
    environment = {
        **os.environ,
        f"{PREFIX}HOME": str(settings.home),
        f"{PREFIX}DATABASE_URL": database_url,
        f"{PREFIX}REDIS_URL": redis_url,
        f"{PREFIX}STORAGE_URL": settings.storage,
        f"{PREFIX}AUTH": "keys" if settings.asks_for_keys else "none",
        f"{PREFIX}MODEL_ROOTS": ":".join(map(str, settings.model_roots)),
        "PYTHONUNBUFFERED": "1",
    }
    return servers, environment


def _services(
    settings: Settings, environment: dict[str, str], logs: Path, port: int
) -> tuple[_Service, _Service]:
    python = [sys.executable, "-m", "luthier"]
    api = _Service(
        "the API",
        [*python, "api"],
        environment={**environment, f"{PREFIX}PORT": str(port), f"{PREFIX}HOST": settings.host},
        log=logs / "api.log",
        stop_seconds=_API_STOP_SECONDS,
    )
    worker = _Service(
        "the worker",
        [*python, "worker"],
        environment=environment,
        log=logs / "worker.log",
        stop_seconds=settings.drain_grace_seconds + _WORKER_MARGIN_SECONDS,
    )
    return api, worker


def _stop(service: _Service) -> None:
    _say(f"stopping {service.name}")
    service.stop()


@contextmanager
def _signals_set(asked: threading.Event) -> Iterator[None]:
    """Set the event on the first SIGINT or SIGTERM; later ones are told to be patient."""

    def on_signal(_number: int, _frame: object) -> None:
        if asked.is_set():
            _say("already stopping: a running job is being saved")
        asked.set()

    before = {
        number: signal.signal(number, on_signal) for number in (Signals.SIGINT, Signals.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait_until_ready(url: str, api: _Service, asked: threading.Event) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while not asked.is_set():
        try:
            with direct.open(f"{url}/readyz", timeout=5):
                return
        except (urllib.error.URLError, OSError) as error:
            last = error
        if (status := api.poll()) is not None:
            raise ServerFailed(
                f"the API ended with status {status} before it was ready.", hint=f"See {api.log}."
            )
        if time.monotonic() > deadline:
            raise ServerFailed(
                f"the API was not ready within {_READY_SECONDS} s: {last}.", hint=f"See {api.log}."
            )
        time.sleep(_POLL_SECONDS)


def _reached_at(host: str) -> str:
    """Return by which address this machine reaches what listens on a host."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "[::1]"
    return str(address) if address.version == 4 else f"[{address}]"


def _greet(url: str, home: Home, *, asks_for_keys: bool) -> None:
    _say(f"ready at {url}")
    if asks_for_keys:
        _say("  it asks for keys    luthier keys add NAME --scope admin")
    _say(f"  API documentation   {url}/docs")
    _say(f"  everything is kept in {home.path}")
    default = Settings.model_fields["port"].default
    address = "" if url.endswith(f":{default}") else f"LUTHIER_URL={url} "
    _say(f"  upload rows         {address}luthier datasets add train.csv")
    _say(f"  submit a job        {address}luthier submit job.json --follow")
    _say("  Ctrl-C stops it all")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - this is the command's talk
