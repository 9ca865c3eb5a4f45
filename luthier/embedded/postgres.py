"""The embedded PostgreSQL.

Its data lies in `<home>/postgres`, with one exception. PostgreSQL refuses to run as root, so under
root it runs as an unprivileged account (see account.py), which must be able to pass through every
folder above its data. It can't when the home is 0700, as Luthier makes it, or lies in /root. Then
the data goes to a `luthier-postgres-<random>` in /var/lib/luthier (or, when it need not be durable,
in the temporary folder), and `<home>/postgres.json` says where. No mode of an existing folder is
ever changed.

So root in a container keeps its data by a volume at /var/lib/luthier beside that of the home, or
by a home folder of mode 0711 made beforehand; or, better, by not being root.
"""

import secrets
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import psycopg

from luthier.embedded.account import (
    SYSTEM_FOLDER,
    create_system_folder,
    is_open_to_all,
    owner_of,
    unprivileged_account,
)
from luthier.embedded.child import Child
from luthier.embedded.cluster import SUPERUSER, Cluster, find_package, programs_for
from luthier.embedded.home import ServerRecord, exclusive_lock
from luthier.embedded.ports import LOOPBACK, start_on_free_port
from luthier.embedded.server import EmbeddedServer
from trainer_core.errors import ServerFailed

_DATABASE = "luthier"
_READY_TIMEOUT_SECONDS = 120  # recovery after a crash replays the log before it answers
_OPTIONS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "shared_buffers": "32MB",
}
_THROWAWAY_OPTIONS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class EmbeddedPostgres(EmbeddedServer):
    """A PostgreSQL 18 of our own, for one home."""

    name = "PostgreSQL"
    key = "postgres"
    setting = "LUTHIER_DATABASE_URL"
    stop_timeout_seconds = 60

    def __init__(
        self, home: Path, *, durable: bool = True, system_folder: Path = SYSTEM_FOLDER
    ) -> None:
        """Describe the server; `start` runs it.

        Args:
            home: the LUTHIER_HOME whose database this is.
            durable: False gives up crash safety for speed, for data of a test.
            system_folder: under root, for what the unprivileged account can't reach elsewhere.
        """
        super().__init__(home)
        self._durable = durable
        self._system_folder = system_folder

    def delete_data(self) -> None:
        """Stop the server and delete its data, wherever that lies, and its record."""
        self.stop()
        record = self._home.read_record(self.key)
        if record is None:
            return
        folder = self._folder(record)
        if folder.exists():
            with exclusive_lock(folder / "lock"):
                shutil.rmtree(folder)
        self._home.delete_record(self.key)

    @property
    def url(self) -> str:
        record = self._home.read_record(self.key)
        assert record is not None, "PostgreSQL was not started"
        login = f"{SUPERUSER}:{record.password}"
        return f"postgresql+psycopg://{login}@{LOOPBACK}:{record.port}/{_DATABASE}"

    def _launch(self) -> None:
        package = find_package()
        record = self._home.read_record(self.key) or self._first_record()
        folder = self._folder(record)
        if not folder.is_dir():
            raise ServerFailed(
                f"the database of {self._home.path} should be in {folder}, which is missing.",
                hint=f"Restore that folder, or delete {self._home.path / 'postgres.json'} to "
                "start with an empty database.",
            )
        self._held.enter_context(exclusive_lock(folder / "lock"))
        data = folder / "data"
        account = owner_of(data) if data.exists() else unprivileged_account()
        programs = programs_for(account, package=package, system_folder=self._system_folder)
        cluster = Cluster(folder=folder, account=account, programs=programs)
        cluster.prepare(password=record.password, log=self.log)
        self._child, port = start_on_free_port(
            lambda port: cluster.server(log=self.log, options=self._options(port)),
            preferred=record.port,
            wait=lambda child, port: _wait_for_database(child, port, password=record.password),
        )
        if port != record.port:
            self._home.write_record(self.key, replace(record, port=port))

    def _folder(self, record: ServerRecord) -> Path:
        return Path(record.folder) if record.folder else self._home.path / "postgres"

    def _first_record(self) -> ServerRecord:
        """Choose a password and a place for a new database, and keep both."""
        inside = self._home.path / "postgres"
        if (inside / "data").exists():
            raise ServerFailed(
                f"{inside} holds a database, and {self._home.path / 'postgres.json'} with its "
                "password is missing.",
                hint=f"Restore that file, or move {inside} away to start with an empty database.",
            )
        outside = None
        if unprivileged_account() is None:
            inside.mkdir(mode=0o700, exist_ok=True)
        elif is_open_to_all(self._home.path):
            _make_passable(inside)
        else:
            outside = self._make_outside()
        record = ServerRecord(password=secrets.token_urlsafe(24), folder=outside)
        self._home.write_record(self.key, record)
        return record

    def _make_outside(self) -> str:
        """Make and return a folder out of the home, which root's account can't reach."""
        parent = Path(tempfile.gettempdir())
        if self._durable or not is_open_to_all(parent):
            parent = self._system_folder
            create_system_folder(parent)
        folder = tempfile.mkdtemp(prefix="luthier-postgres-", dir=parent)
        _make_passable(Path(folder))
        return folder

    def _options(self, port: int) -> dict[str, str]:
        throwaway = {} if self._durable else _THROWAWAY_OPTIONS
        return {**_OPTIONS, "port": str(port), **throwaway}


def _make_passable(folder: Path) -> None:
    """Make a folder of root's that an account passes through, and only root lists or writes."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o711)


def _wait_for_database(child: Child, port: int, *, password: str) -> None:
    """Wait until the server answers our login, and create the database where it is missing."""

    def connect() -> "psycopg.Connection[tuple[object, ...]]":
        return psycopg.connect(
            host=LOOPBACK,
            port=port,
            user=SUPERUSER,
            password=password,
            dbname="postgres",
            connect_timeout=5,
            autocommit=True,
        )

    def probe() -> None:
        with connect() as connection:
            exists = "select 1 from pg_database where datname = %s"
            if connection.execute(exists, [_DATABASE]).fetchone() is None:
                connection.execute(f"create database {_DATABASE}")

    child.wait_until_ready(
        probe, not_yet=psycopg.OperationalError, timeout_seconds=_READY_TIMEOUT_SECONDS
    )
