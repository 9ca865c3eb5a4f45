"""The unprivileged account that PostgreSQL runs as when Luthier itself is root.

`initdb` and `postgres` refuse to run as root. The account must exist: PostgreSQL looks it up by
uid. Luthier neither creates accounts nor changes the mode of any folder that it did not make.
"""

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from trainer_core.errors import ServerFailed

# An administrator who wants the database to have an account of its own adds `luthier`.
_ACCOUNT_NAMES = ("luthier", "nobody", "daemon")

# For what the account must reach when the home or the installed package is out of its reach.
SYSTEM_FOLDER = Path("/var/lib/luthier")


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine."""

    name: str
    uid: int
    gid: int


def unprivileged_account() -> Account | None:
    """Return whom to run PostgreSQL as: None, this process's own user, unless that is root."""
    if os.geteuid() != 0:
        return None
    for name in _ACCOUNT_NAMES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise ServerFailed(
        f"PostgreSQL does not run as root, and none of the users {', '.join(_ACCOUNT_NAMES)} "
        "exists on this machine.",
        hint="Run Luthier as an ordinary user, add a user `luthier`, or set LUTHIER_DATABASE_URL.",
    )


def owner_of(path: Path) -> Account | None:
    """Return the account that owns existing data: None unless this process is root."""
    if os.geteuid() != 0:
        return None
    uid = path.stat().st_uid
    try:
        entry = pwd.getpwuid(uid)
    except KeyError as error:
        raise ServerFailed(
            f"{path} belongs to uid {uid}, which is no user of this machine.",
            hint=f"Add a user with that uid, or give the folder to one: chown -R nobody {path}",
        ) from error
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def give(path: Path, account: Account | None) -> None:
    """Make a file or folder the account's own; nothing to do when there is no account."""
    if account is not None:
        os.chown(path, account.uid, account.gid)


def is_open_to_all(path: Path) -> bool:
    """Return whether every user can pass through a folder (or run a file) and all above it."""
    real = path.resolve(strict=True)
    return all(part.stat().st_mode & stat.S_IXOTH for part in (real, *real.parents))


def create_system_folder(folder: Path) -> None:
    """Make a folder that any account can pass through and only root can write.

    Raises:
        ServerFailed: it can't be made, or someone else could plant files in it.
    """
    if not folder.exists():
        folder.mkdir(parents=True)
        folder.chmod(0o755)  # whatever the umask
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise ServerFailed(
            f"{folder} must be a folder that belongs to root and that only root can write.",
            hint=f"Move it away, or run: chown root {folder} && chmod 755 {folder}",
        )
    if not is_open_to_all(folder):
        raise ServerFailed(
            f"PostgreSQL can't run as root, and no other user can pass through {folder}.",
            hint="Run Luthier as an ordinary user, or set LUTHIER_DATABASE_URL.",
        )
