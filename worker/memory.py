"""Watching a training process and its children: how much memory, how many, and who ends them.

The thread is its own, so that a database that hangs does not let a process grow meanwhile.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from trainer_core import memory
from worker.group import members_of

_TURN_SECONDS = 0.1
_TURNS_A_CENSUS = 10  # between two looks at who belongs to the group


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """What is known of the memory of a process that has ended."""

    peak_bytes: int
    bound_bytes: int  # the peak was no higher: it may have come between two looks
    limit_bytes: int  # of the job, if it passed that, else of the machine or its control group
    available_bytes: int | None  # on the machine, when it was last looked at
    num_oom_kills: int  # by the kernel meanwhile, in the process's control group
    is_over_limit: bool  # the worker ended it for that
    num_processes: int = 1  # the most that were seen at once
    is_crowded: bool = False  # the worker ended it because they were too many


class MemoryWatch:
    """Looks at a process group often, and calls `on_excess` once it is larger than it may be."""

    def __init__(
        self,
        leader: int,
        *,
        max_bytes: int | None,
        max_processes: int,
        on_excess: Callable[[], object],
    ) -> None:
        self._leader = leader
        self._max_bytes = max_bytes
        self._max_processes = max_processes
        self._on_excess = on_excess
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look_often, name="memory", daemon=True)
        self._limit_bytes = memory.limit_bytes(leader)
        self._counter = memory.oom_counter(leader)  # now: the dead belong to no control group
        self._num_oom_kills_before = memory.num_oom_kills(self._counter)
        self._members: list[int] = []
        self._available_bytes: int | None = None
        self._peak_bytes = 0
        self._is_over_limit = False
        self._num_processes = 1
        self._is_crowded = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def use(self, *, peak_bytes: int) -> MemoryUse:
        """Return what was seen.

        Args:
            peak_bytes: the most that one process of the group had, as the kernel counted: no less
                than this process's own, for that is what it began as.
        """
        is_its_own = peak_bytes > memory.own_peak_bytes()
        num_oom_kills = memory.num_oom_kills(self._counter) - self._num_oom_kills_before
        is_over = self._is_over_limit and self._max_bytes is not None
        return MemoryUse(
            peak_bytes=max(self._peak_bytes, peak_bytes if is_its_own else 0),
            bound_bytes=max(self._peak_bytes, peak_bytes),
            limit_bytes=(self._max_bytes or 0) if is_over else self._limit_bytes,
            available_bytes=self._available_bytes,
            num_oom_kills=max(0, num_oom_kills),
            is_over_limit=is_over,
            num_processes=self._num_processes,
            is_crowded=self._is_crowded,
        )

    def _look_often(self) -> None:
        turn = 0
        while True:
            if turn % _TURNS_A_CENSUS == 0:
                self._members = [one.pid for one in members_of(self._leader)]
                self._available_bytes = memory.available_bytes()
                self._num_processes = max(self._num_processes, len(self._members))
                if len(self._members) > self._max_processes:
                    self._is_crowded = True
                    self._on_excess()
                    return
            turn += 1
            held = self._held()
            self._peak_bytes = max(self._peak_bytes, held, memory.largest_bytes(self._members))
            if self._max_bytes is not None and held > self._max_bytes:
                self._is_over_limit = True
                self._on_excess()
                return
            if self._ended.wait(_TURN_SECONDS):
                return

    def _held(self) -> int:
        """Return what the group holds; what it shares is told apart only where it matters."""
        held = memory.held_bytes(self._members)
        if len(self._members) > 1 and held > max(self._peak_bytes, self._max_bytes or 0):
            return memory.held_together_bytes(self._members)
        return held
