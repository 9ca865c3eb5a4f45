"""Small file systems, which can be full without harm."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def obstacle_to_mounting() -> str | None:
    """Return why no file system can be mounted here, if none can."""
    if os.geteuid() != 0:
        return "a file system can't be mounted here: that needs root"
    return None if shutil.which("mount") else "mount is not installed"


@contextmanager
def mounted(folder: Path, *, size: str) -> Iterator[None]:
    """Put an empty file system of a size over a folder for a while."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", str(folder)]
    subprocess.run(command, check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, *, share: float = 1.0) -> Path:
    """Fill the file system of a folder up to a share; return the file that does."""
    ballast = folder / "ballast"
    status = os.statvfs(folder)
    wanted = int((status.f_bavail - status.f_blocks * (1 - share)) * status.f_frsize)
    with ballast.open("wb") as file, suppress(OSError):
        while wanted > 0:
            wanted -= file.write(bytes(min(wanted, 1 << 16)))
            file.flush()
    return ballast
