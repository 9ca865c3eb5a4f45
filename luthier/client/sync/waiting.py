"""How this side waits. The only module that each side has in its own words."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

sleep = time.sleep


def off_loop(work: Callable[..., T], *args: object) -> T:
    """Return what a function that takes long returns."""
    return work(*args)
