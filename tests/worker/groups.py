"""Memory control groups for tests: where they may be made, the kernel kills for real."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from trainer_core.memory import CGROUPS


def wait_for(look: Callable[[], Any], *, seconds: float = 5) -> Any:
    """Return what a look finds once it finds something."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


@contextmanager
def limited_group(max_bytes: int) -> Iterator[Path]:
    """Give a memory control group with a limit, or skip the test."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    paths = {controllers: path for _, controllers, path in lines}
    if "memory" in paths:
        parent = CGROUPS / "memory" / paths["memory"].lstrip("/")
    else:
        parent = CGROUPS / paths[""].lstrip("/")
    group = parent / f"luthier-test-{os.getpid()}"
    try:
        group.mkdir()
        set_limit(group, max_bytes)
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        yield group
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def set_limit(group: Path, max_bytes: int) -> None:
    """Set the most that the processes of a group may use."""
    first = group / "memory.limit_in_bytes"
    (first if first.exists() else group / "memory.max").write_text(str(max_bytes))


def enter(group: Path, pids: list[int]) -> None:
    """Put processes into a group; what they start from then on is in it too."""
    for pid in pids:
        (group / "cgroup.procs").write_text(str(pid))


def num_bytes_used(group: Path) -> int:
    """Return what the processes of a group hold: not the files that the kernel keeps for them."""
    lines = (line.split() for line in (group / "memory.stat").read_text().splitlines())
    stat = {name: int(value) for name, value in lines}
    return stat["anon"] if "anon" in stat else stat["rss"]
