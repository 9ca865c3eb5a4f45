"""The processes that belong to one: who they are, what memory they hold, whether they are gone.

Read from `/proc`, so on Linux only; elsewhere the group is all that is known, and no memory.
"""

import contextlib
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_GONE = frozenset("ZX")  # a zombie holds nothing but its exit code


@dataclass(frozen=True, slots=True)
class Member:
    """A process, as it was at some moment."""

    pid: int
    parent: int
    group: int
    session: int
    started: int  # clock ticks since the machine did: with the number it is a process's name
    num_pages: int  # resident


def members_of(leader: int) -> list[Member]:
    """Return who is in a leader's group or session, or descends from it, wherever it went."""
    everybody = _everybody()
    found = {leader}
    while True:
        family = [one for one in everybody if found & {one.pid, one.group, one.session, one.parent}]
        if found.issuperset(one.pid for one in family):
            return family
        found |= {one.pid for one in family}


def left_of(members: Iterable[Member]) -> list[Member]:
    """Return which of the processes are still there; a number may be another one's by now."""
    return [
        now for one in members if (now := _read(one.pid)) is not None and now.started == one.started
    ]


def resident_bytes(members: Iterable[Member]) -> int | None:
    """Return what processes hold together, shared pages counted for each; None if unknown."""
    if not _PROC.is_dir():
        return None
    return sum(one.num_pages for one in members) * os.sysconf("SC_PAGE_SIZE")


def kill(members: Iterable[Member]) -> None:
    """Kill those that are still there."""
    for one in left_of(members):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(one.pid, signal.SIGKILL)


def is_group_gone(leader: int) -> bool:
    """Return whether nobody is in the group, by the kernel's word."""
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return _PROC.is_dir() and not any(one.group == leader for one in _everybody())  # zombies


def _everybody() -> list[Member]:
    if not _PROC.is_dir():
        return []
    found = (_read(int(entry.name)) for entry in _PROC.iterdir() if entry.name.isdecimal())
    return [one for one in found if one is not None]


def _read(pid: int) -> Member | None:
    """Return a process that is alive, by proc_pid_stat(5)."""
    try:
        text = (_PROC / str(pid) / "stat").read_text("utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before may hold anything
    if fields[0] in _GONE:
        return None
    return Member(
        pid=pid,
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        started=int(fields[19]),
        num_pages=int(fields[21]),
    )
