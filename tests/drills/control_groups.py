"""Memory control groups, where they may be made: there the kernel kills for real."""

import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.drills.site import Site, until
from tests.worker.groups import num_bytes_used, set_limit
from trainer_core.memory import CGROUPS


@cache
def obstacle_to_control_groups() -> str | None:
    """Return why no control group can be made here, if none can."""
    group = _parent() / f"luthier-probe-{os.getpid()}"
    try:
        group.mkdir()
        set_limit(group, 1 << 40)
        group.rmdir()
    except OSError as error:
        return f"no control group can be made here: {error}"
    return None


@contextmanager
def limited_group(pid: int, *, more_bytes: int) -> Iterator[None]:
    """Let a process and the children it gets have so many bytes more, for a while."""
    parent = _parent()
    group = parent / f"luthier-drill-{os.getpid()}-{time.monotonic_ns()}"
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(pid))
        set_limit(group, num_bytes_used(group) + more_bytes)
        yield
    finally:
        (parent / "cgroup.procs").write_text(str(pid))
        until(lambda: not (group / "cgroup.procs").read_text(), seconds=30, what="it is empty")
        group.rmdir()


def fork_server_of(site: Site) -> int:
    """Return the process that forks a site's training processes."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(site.settings.fork_server))
        told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", told)[0])


def _parent() -> Path:
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    paths = {controllers: path for _, controllers, path in lines}
    if "memory" in paths:
        return CGROUPS / "memory" / paths["memory"].lstrip("/")
    return CGROUPS / paths[""].lstrip("/")
