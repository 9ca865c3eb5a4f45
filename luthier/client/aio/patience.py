"""How long a watcher bears a service that is out of reach."""

import time

from luthier.client.aio.waiting import sleep
from luthier.client.calls import delay_seconds, is_temporary
from luthier.client.errors import LuthierAPIError

OUTAGE_SECONDS = 300.0  # a restart or a moved network is over by then


class AsyncPatience:
    """Waits after each failure, longer each time, and gives up when the outage has lasted too long.

    A service that has never answered gets no patience: it is more likely misspelt than restarting.
    """

    def __init__(self, outage_seconds: float) -> None:
        self._outage_seconds = outage_seconds
        self._last_answer: float | None = None
        self._num_failures = 0

    def reached(self) -> None:
        """Note that there is such a service; being there is not yet an answer."""
        if self._last_answer is None:
            self.answered()

    def answered(self) -> None:
        """Note that the service was there."""
        self._last_answer = time.monotonic()

    def progressed(self) -> None:
        """Note that the service had something to say, so that the next failure waits little."""
        self.answered()
        self._num_failures = 0

    async def failed(self, error: LuthierAPIError) -> None:
        """Wait before the next try, or raise `error` if there shall be none."""
        if self._last_answer is None or not is_temporary(error):
            raise error
        if time.monotonic() - self._last_answer > self._outage_seconds:
            raise error
        await self.pause()

    async def pause(self) -> None:
        """Wait before the next try."""
        self._num_failures += 1
        await sleep(delay_seconds(self._num_failures))
