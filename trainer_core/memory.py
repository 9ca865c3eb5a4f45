"""What Linux tells of memory: what processes hold, what they may, and whom the kernel killed.

Elsewhere, and where a file can't be read, the answer is None, or what the C library knows.
Both forms of control groups are read; https://docs.kernel.org/admin-guide/cgroup-v2.html and
cgroup-v1/memory.html name the files.
"""

import os
import resource
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
_KIB = 1024
_OOM_KILLS = "oom_kill"
_NO_LIMIT = 1 << 60  # the first form writes about 2**63 for none


def total_bytes() -> int:
    """Return the memory of the machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def limit_bytes(pid: int | None = None) -> int:
    """Return the most that a process may use with its neighbours: of machine or control groups.

    Args:
        pid: of the process; None for this one.
    """
    limits = [total_bytes()]
    for folder in _cgroups(pid):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _text(folder / name).strip()
            if text.isdecimal() and int(text) < _NO_LIMIT:
                limits.append(int(text))
    return min(limits)


def oom_counter(pid: int | None = None) -> Path | None:
    """Return the file that counts whom the kernel killed for want of memory, or None.

    It counts in the process's control group; where that does not count, on the whole machine.
    """
    for folder in _cgroups(pid):
        for name in ("memory.events", "memory.oom_control"):
            if _number(folder / name, _OOM_KILLS) is not None:
                return folder / name
    whole = PROC / "vmstat"
    return whole if _number(whole, _OOM_KILLS) is not None else None


def num_oom_kills(counter: Path | None) -> int:
    """Return how many processes were killed, as `oom_counter`'s file says; 0 without one."""
    return (_number(counter, _OOM_KILLS) or 0) if counter else 0


def available_bytes() -> int | None:
    """Return how much of the machine's memory could be had at once."""
    kib = _number(PROC / "meminfo", "MemAvailable:")
    return None if kib is None else kib * _KIB


def held_bytes(pids: Iterable[int]) -> int:
    """Return what processes hold that the kernel can't take back: not what it can read again.

    What several share, as workers do after a fork, counts as often as there are of them.
    """
    return sum(_sum(PROC / str(pid) / "status", "RssAnon:", "RssShmem:") for pid in pids)


def largest_bytes(pids: Iterable[int]) -> int:
    """Return the most that any one of these processes has had in memory so far."""
    return max((_sum(PROC / str(pid) / "status", "VmHWM:") for pid in pids), default=0)


def held_together_bytes(pids: Iterable[int]) -> int:
    """Return the same with what is shared counted once, which takes the kernel far longer."""
    return sum(_proportional(pid) for pid in pids)


def own_peak_bytes() -> int:
    """Return the most that this process has had in memory."""
    return from_max_rss(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def from_max_rss(max_rss: int) -> int:
    """Return the bytes of a `ru_maxrss`, which Linux counts in KiB and macOS in bytes."""
    return max_rss if sys.platform == "darwin" else max_rss * _KIB


def shown(num_bytes: int) -> str:
    """Return bytes as people read them."""
    if num_bytes < 1 << 30:
        return f"{num_bytes / (1 << 20):.0f} MiB"
    return f"{num_bytes / (1 << 30):.1f} GiB"


def _proportional(pid: int) -> int:
    folder = PROC / str(pid)
    together = _sum(folder / "smaps_rollup", "Pss_Anon:", "Pss_Shmem:")
    return together or _sum(folder / "status", "RssAnon:", "RssShmem:")


def _cgroups(pid: int | None) -> Iterator[Path]:
    """Yield the folders of a process's memory control group and of those above it."""
    for line in _text(PROC / ("self" if pid is None else str(pid)) / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            root = CGROUPS / "memory"
        elif not controllers:
            root = CGROUPS
        else:
            continue
        # In a container the path may be the host's, and the root what is the container's own.
        folder = root / path.lstrip("/")
        while folder != root:
            if folder.is_dir():
                yield folder
            folder = folder.parent
        yield root


def _number(path: Path, name: str) -> int | None:
    return _numbers(path, name).get(name)


def _sum(path: Path, *names: str) -> int:
    """Return the sum of numbers of KiB in bytes; what is not there counts nothing."""
    return sum(_numbers(path, *names).values()) * _KIB


def _numbers(path: Path, *names: str) -> dict[str, int]:
    """Return the numbers behind some names in a file of names and numbers."""
    lines = (line.split() for line in _text(path).splitlines())
    return {fields[0]: int(fields[1]) for fields in lines if len(fields) > 1 and fields[0] in names}


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text()
    return ""
