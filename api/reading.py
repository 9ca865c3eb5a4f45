"""Threads of their own for reading rows: what reads for minutes leaves other requests theirs."""

from collections.abc import Callable
from typing import Annotated, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Request

from api.problems import RETRY
from trainer_core.errors import ServiceUnavailable

_NUM_THREADS = 2
_MAX_WAITING = 8
_RETRY_SECONDS = 10

T = TypeVar("T")


class Readers:
    """The threads that read rows; those who wait for one are few, and the next is sent away."""

    def __init__(self) -> None:
        self._limiter = CapacityLimiter(_NUM_THREADS)

    def check(self) -> None:
        """Raise ServiceUnavailable if too many wait already."""
        if self._limiter.statistics().tasks_waiting >= _MAX_WAITING:
            raise ServiceUnavailable(
                f"the service reads rows for {_NUM_THREADS} requests, and {_MAX_WAITING} wait.",
                hint="Send it again a little later.",
                detail={RETRY: _RETRY_SECONDS},
            )

    async def run(self, read: Callable[[], T]) -> T:
        """Return what `read` returns, or raise ServiceUnavailable if too many wait already."""
        self.check()
        return await to_thread.run_sync(read, limiter=self._limiter)


async def _readers(request: Request) -> Readers:
    readers = request.app.state.readers
    assert isinstance(readers, Readers)
    return readers


RowReaders = Annotated[Readers, Depends(_readers)]
