"""Waiting for a storage that fails: it must not cost the training."""

import time
from collections.abc import Callable, Iterator

_RETRY_SECONDS = (1, 5, 15, 30)


def pauses() -> Iterator[int]:
    """Yield for how many seconds to wait before each further try, without end."""
    yield from _RETRY_SECONDS
    while True:
        yield _RETRY_SECONDS[-1]


def rest(seconds: float, check: Callable[[], None]) -> None:
    """Wait; what `check` raises ends the waiting."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        check()
        time.sleep(0.2)
