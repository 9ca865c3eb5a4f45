"""The servers that the tests run against: a real PostgreSQL and a real Valkey, started once."""

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from jobs.backends import Backends, connect
from jobs.database import migrate
from jobs.settings import PREFIX, Settings, load_settings
from luthier.embedded import EmbeddedPostgres, EmbeddedValkey

_TEMPLATE = "luthier_template"
_FORK_SERVER_SECONDS = 300  # importing torch takes most of it, on a slow machine


@pytest.fixture(scope="session", autouse=True)
def _clean_environment() -> None:
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]


@dataclass(frozen=True)
class Servers:
    """Where the session's servers are."""

    database_url: str  # of the maintenance database
    redis_url: str


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    with tempfile.TemporaryDirectory(prefix="luthier-tests-", dir="/tmp") as folder:
        home = Path(folder)
        postgres = EmbeddedPostgres(home, durable=False)
        with postgres, EmbeddedValkey(home) as valkey:
            url = postgres.url
            _execute(url, f"CREATE DATABASE {_TEMPLATE}")
            migrate(_database(url, _TEMPLATE))
            yield Servers(url, valkey.url)
        postgres.delete_data()


@pytest.fixture(scope="session")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a process that has imported everything, and forks training processes."""
    socket = tmp_path_factory.mktemp("fork-server") / "socket"
    with start_fork_server(socket):
        yield socket


@contextmanager
def start_fork_server(socket: Path) -> Iterator[None]:
    """Run a fork server; it has to end in order."""
    server = subprocess.Popen(
        [sys.executable, "-m", "trainer_core.training", "--fork-server", str(socket)],
        stdin=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    deadline = time.monotonic() + _FORK_SERVER_SECONDS
    while not socket.exists():
        assert server.poll() is None, f"the fork server ended with {server.returncode}"
        assert time.monotonic() < deadline, "no fork server in time"
        time.sleep(0.05)
    yield
    assert server.stdin is not None
    server.stdin.close()
    assert server.wait(_FORK_SERVER_SECONDS) == 0
    assert not socket.exists()


@pytest.fixture
def database_url(servers: Servers) -> Iterator[str]:
    with fresh_database(servers) as url:
        yield url


@contextmanager
def fresh_database(servers: Servers) -> Iterator[str]:
    """Give a database with all tables and no rows, for a while."""
    name = f"test_{secrets.token_hex(6)}"
    _execute(servers.database_url, f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE} STRATEGY wal_log")
    yield _database(servers.database_url, name)
    _execute(servers.database_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def settings(servers: Servers, database_url: str, tmp_path: Path) -> Settings:
    """A service of its own for the test: fresh database, home and storage."""
    return load_settings(
        home=tmp_path / "home",
        database_url=database_url,
        redis_url=servers.redis_url,
        auth="none",
        model_roots=(tmp_path / "models",),
        training_threads=1,
    )


@pytest.fixture
def backends(settings: Settings) -> Iterator[Backends]:
    connected = connect(settings)
    yield connected
    connected.engine.dispose()


def _database(url: str, name: str) -> str:
    return make_url(url).set(database=name).render_as_string(hide_password=False)


def _execute(url: str, statement: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()
