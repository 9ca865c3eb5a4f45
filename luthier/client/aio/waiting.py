"""How this side waits. The only module that each side has in its own words."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

sleep = asyncio.sleep


async def off_loop(work: Callable[..., T], *args: object) -> T:
    """Return what a function that takes long returns, while others go on."""
    return await asyncio.to_thread(work, *args)
