"""The searcher: looks at sweeps, in a thread of its own, until the service stops."""

import asyncio
import contextlib
import logging

from anyio import CapacityLimiter, to_thread

from jobs.backends import Backends
from jobs.sweeps.engine import look

_log = logging.getLogger(__name__)


async def search_until(stopping: asyncio.Event, backends: Backends) -> None:
    """Look at sweeps until the service stops; a look that fails is logged, and the next comes."""
    own_thread = CapacityLimiter(1)  # requests may have taken all of the others
    while not stopping.is_set():
        try:
            await to_thread.run_sync(look, backends, limiter=own_thread)
        except Exception:  # noqa: BLE001 - whatever it is, sweeps wait for the next look
            _log.exception("could not look at sweeps", extra={"action": "look_failed"})
        with contextlib.suppress(TimeoutError):
            seconds = backends.settings.search_seconds
            await asyncio.wait_for(stopping.wait(), timeout=seconds)
