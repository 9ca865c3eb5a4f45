"""What a worker's parent and its slots tell each other: a few bytes that all of them share."""

import mmap


class Board:
    """One byte for the whole worker, one for each slot. Made before the pool is forked."""

    def __init__(self, num_slots: int) -> None:
        self._bytes = mmap.mmap(-1, 1 + num_slots)
        self._num_slots = num_slots

    @property
    def is_draining(self) -> bool:
        """Whether the worker was asked to end."""
        return self._bytes[0] != 0

    def drain(self) -> None:
        """Let every slot know that the worker is to end."""
        self._bytes[0] = 1

    def mark(self, slot: int, *, is_busy: bool) -> None:
        """Say whether a slot works; one that was killed at it says so when it is started anew."""
        self._bytes[1 + slot % self._num_slots] = int(is_busy)

    @property
    def has_free_slot(self) -> bool:
        """Whether a message would be heard at once."""
        return 0 in self._bytes[1:]

    @property
    def is_idle(self) -> bool:
        """Whether no slot works."""
        return not any(self._bytes[1:])
