"""What was measured of the end of a training process that was asked to stop.

It goes out with the event of the state in which the job is left: that the device is free is shown,
not promised.
"""

import signal
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from worker.group import is_group_gone, resident_bytes
from worker.process import TrainingProcess

_PATIENCE_SECONDS = 5.0  # for the kernel to take away what was killed


@dataclass(frozen=True, slots=True)
class Receipt:
    """How a process ended, and what is left of it."""

    process_gone: bool  # nobody of its group is there, nor who had left the group
    exit_code: int | None = None  # None if a signal ended it, or if there was no process
    signal: str | None = None
    seconds_to_stop: float | None = None  # from asking to its being gone
    memory_before_bytes: int | None = None  # resident, of all that belonged to it, when asked
    memory_after_bytes: int | None = None
    checkpoint: str | None = None  # the newest one there is to go on from
    checkpoint_stored: bool = False  # so that another machine can go on from it, too

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return asdict(self)


NO_PROCESS = Receipt(process_gone=True)


@dataclass(slots=True)
class Asked:
    """What was seen when a process was asked to stop."""

    process: TrainingProcess
    at: float = field(default_factory=time.monotonic)
    memory_bytes: int | None = field(init=False)

    def __post_init__(self) -> None:
        self.memory_bytes = resident_bytes(self.process.members())

    def receipt(self, exit_code: int) -> Receipt:
        """Return what is to be seen now that the process has ended and its group was killed."""
        left = self.process.left(seconds=_PATIENCE_SECONDS)
        gone = not left and is_group_gone(self.process.pid)
        return Receipt(
            process_gone=gone,
            exit_code=exit_code if exit_code >= 0 else None,
            signal=signal.Signals(-exit_code).name if exit_code < 0 else None,
            seconds_to_stop=round(time.monotonic() - self.at, 3),
            memory_before_bytes=self.memory_bytes,
            memory_after_bytes=resident_bytes(left),
        )
