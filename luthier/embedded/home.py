"""LUTHIER_HOME: the folder that holds everything an embedded service keeps.

    <home>/lock            held while a `luthier up` runs on this home; its pid is inside
    <home>/logs/           one file a server
    <home>/postgres.json   password and port of PostgreSQL (0600)
    <home>/postgres/       its data, except where postgres.py says otherwise
    <home>/valkey.json     password and port of Valkey (0600)
    <home>/valkey/         its data and configuration

A home may be moved while nothing runs on it.
"""

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from trainer_core.errors import HomeInUse, InvalidSetting, ServerFailed

DEFAULT_HOME = Path("~/.luthier")


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """What has to be known to start a server again on its data."""

    password: str
    port: int | None = None  # None until the first start
    folder: str | None = None  # of its data, where that is not in the home


class Home:
    """One LUTHIER_HOME.

    A home that does not exist is made with mode 0700; one that exists keeps its mode, and so does
    every folder above it.
    """

    def __init__(self, path: Path = DEFAULT_HOME) -> None:
        self.path = path.expanduser().resolve()

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def create(self) -> None:
        """Make the folder and its `logs/` where they are missing."""
        try:
            for folder in (self.path, self.logs):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidSetting(
                f"the home folder {self.path} can't be made or written: {error.strerror}.",
                hint="Set LUTHIER_HOME to a folder that this user may write.",
                param="LUTHIER_HOME",
            ) from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold this home for one supervisor.

        Raises:
            HomeInUse: another one holds it; nothing on disk was touched.
        """
        self.create()
        with exclusive_lock(self.path / "lock"):
            yield

    def read_record(self, server: str) -> ServerRecord | None:
        """Return what `write_record` kept for a server, or None before its first start."""
        path = self._record_path(server)
        try:
            return ServerRecord(**json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise ServerFailed(
                f"{path} should hold the password and port of {server}, and can't be read.",
                hint="Restore it from a backup, or move it and the data away to start empty.",
            ) from error

    def write_record(self, server: str, record: ServerRecord) -> None:
        """Keep a server's record; a crash leaves the old one or the new one, never half of one."""
        write_private(self._record_path(server), json.dumps(asdict(record), indent=2) + "\n")

    def delete_record(self, server: str) -> None:
        self._record_path(server).unlink(missing_ok=True)

    def _record_path(self, server: str) -> Path:
        return self.path / f"{server}.json"


def write_private(path: Path, text: str) -> None:
    """Replace a file atomically and durably by one that only its owner can read."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold an advisory lock on a file, with this process's pid inside it.

    The kernel drops the lock when this process ends, however it ends. A `fork` without `exec`
    would share the lock with the child; `subprocess` does not.

    Raises:
        HomeInUse: another process, or another part of this one, holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _in_use(path, holder=os.pread(descriptor, 32, 0).decode().strip()) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _in_use(path: Path, *, holder: str) -> HomeInUse:
    stop = f"Stop it first (Ctrl-C in its terminal, or `kill {holder}`)"
    return HomeInUse(
        f"{path.parent} is in use by a running Luthier, process {holder or 'unknown'}.",
        hint=f"{stop if holder else 'Stop it first'}, or choose another folder with LUTHIER_HOME.",
        param="LUTHIER_HOME",
        detail={"pid": int(holder)} if holder.isdigit() else {},
    )
