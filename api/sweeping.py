"""The sweeper: what nobody else would see to, because whoever should is gone.

It takes back leases that ran out, rings again for jobs that nobody answered, and removes files,
uploads and stored checkpoints whose time is over.

Every API process has one; an advisory lock of the database lets one sweep at a time.
"""

import asyncio
import contextlib
import logging
from functools import partial

import redis
from anyio import CapacityLimiter, to_thread
from sqlalchemy import text

from jobs.backends import Backends
from jobs.feed import open_redis
from jobs.queue import QUEUE
from jobs.records import Job
from jobs.retention import expire_checkpoints
from jobs.store import attempts, files, replies, uploads
from jobs.transaction import Transaction

_LOCK = 4_817_023_552  # an arbitrary number that only sweepers lock

_log = logging.getLogger(__name__)


async def sweep_until(stopping: asyncio.Event, backends: Backends) -> None:
    """Sweep until the service stops; a sweep that fails is logged, and the next one comes."""
    own_thread = CapacityLimiter(1)  # requests may have taken all of the others
    while not stopping.is_set():
        try:
            await to_thread.run_sync(sweep, backends, limiter=own_thread)
            days = backends.settings.keep_checkpoints_days
            expire = partial(expire_checkpoints, backends, days=days)
            await to_thread.run_sync(expire, limiter=own_thread)
        except Exception:  # noqa: BLE001 - whatever it is, jobs wait for the next sweep
            _log.exception("a sweep failed", extra={"action": "sweep_failed"})
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), timeout=backends.settings.sweep_seconds)


def sweep(backends: Backends) -> None:
    """Sweep once, unless another process is at it."""
    num_waiting = _num_messages(backends)
    with backends.database.transaction() as tx:
        if not tx.connection.execute(
            text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": _LOCK}
        ).scalar_one():
            return
        replies.remove_old(tx)
        for job in attempts.expired(tx):
            _take_back(tx, job)
        if num_waiting is not None:
            seconds = backends.settings.sweep_seconds
            unanswered = attempts.unanswered(tx, older_than_seconds=seconds)
            # Any message makes a worker claim the next job, whichever it names. So those that
            # still wait are enough, and a long queue does not fill Redis with repetitions.
            tx.bells.extend(unanswered[: max(0, len(unanswered) - num_waiting)])
        keys = [*files.remove_expired(tx), *uploads.take_stale_parts(tx)]
    for key in keys:
        backends.storage.delete(key)


def _take_back(tx: Transaction, job: Job) -> None:
    """Move on a job that lost its worker; one that can't be moved does not stop the others."""
    num_events, num_bells = len(tx.events), len(tx.bells)
    try:
        with tx.connection.begin_nested():
            moved = attempts.take_back(tx, job)
    except Exception:  # noqa: BLE001 - the other jobs are not to blame
        del tx.events[num_events:], tx.bells[num_bells:]  # of what was rolled back
        _log.exception("could not take back %s", job.id, extra={"action": "take_back_failed"})
    else:
        _log.warning(
            "worker %s lost %s, which now is %s",
            job.worker,
            job.id,
            moved.state,
            extra={"action": "lease_lost"},
        )


def _num_messages(backends: Backends) -> int | None:
    """Return how many messages wait for a worker, or None if Redis can't be reached."""
    try:
        with open_redis(backends.redis_url) as client:
            return int(client.llen(QUEUE))
    except redis.RedisError as error:
        _log.warning("could not count messages: %s", error, extra={"action": "count_failed"})
        return None
