"""Waiting until something has ended, however it ended."""

import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from luthier.client.aio.patience import AsyncPatience
from luthier.client.aio.waiting import sleep
from luthier.client.errors import LuthierAPIError, WaitTimedOut

_FIRST_POLL_SECONDS = 0.2
_LONGEST_POLL_SECONDS = 3.0


class Ending(Protocol):
    """Something that comes to an end."""

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""


T = TypeVar("T", bound=Ending)


async def ended(
    get: Callable[[str], Awaitable[T]],
    name: str,
    *,
    kind: str,
    timeout: float | None,  # noqa: ASYNC109 - it raises an error of ours
    outage_seconds: float,
) -> T:
    """Return what `get` returns of `name` once that has ended.

    Args:
        get: the call that returns it as it is now.
        name: its id.
        kind: what it is called.
        timeout: seconds after which to raise; None for never.
        outage_seconds: how long the service may be out of reach, once it has answered.

    Raises:
        WaitTimedOut: it has not ended within `timeout`; it goes on.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    patience = AsyncPatience(outage_seconds)
    pause = _FIRST_POLL_SECONDS
    while True:
        try:
            found = await get(name)
            patience.progressed()
            if found.is_final:
                return found
        except LuthierAPIError as error:
            await patience.failed(error)
        left = pause if deadline is None else deadline - time.monotonic()
        if left <= 0:
            raise WaitTimedOut(
                f"{kind} {name} has not ended within {timeout:g} s.",
                code="wait_timed_out",
                hint="It goes on; wait for it again, with a longer time-out.",
            )
        await sleep(min(pause, left))
        pause = min(pause * 1.5, _LONGEST_POLL_SECONDS)
