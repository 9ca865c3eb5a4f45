"""When queued jobs may start, as far as anyone can tell."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import TextClause, text

from jobs.records import Job
from jobs.states import State
from jobs.store import turns
from jobs.transaction import Transaction

MAX_POSITION = 1000  # counting costs as much as there is ahead
NEAR_POSITION = 100  # as far as a submission looks, which is to be quick however long the queue
_NUM_RECENT = 50  # ended jobs by which the next ones are judged


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job is in the queue; of one that is not queued, nothing is known."""

    position: int | None = None  # from 1; None too for a place behind the first MAX_POSITION
    start_estimate_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Slots:
    """What the slots of all workers are busy with, and how long a job takes; seconds."""

    left: tuple[float | None, ...]  # of each running job; None for not known
    usual: float | None  # of a whole job; None where none has ended yet

    def wait(self, position: int) -> float | None:
        """Return after how long the job at a place in the queue starts; None for not known.

        A job waits, so each slot is taken for busy; where none is, no worker may be there.
        """
        known = [left for left in self.left if left is not None]
        if not known or len(known) < len(self.left) or (position > 1 and self.usual is None):
            return None
        heapq.heapify(known)
        for _ in range(position - 1):
            heapq.heapreplace(known, known[0] + (self.usual or 0.0))
        return known[0]


def places(tx: Transaction, found: Sequence[Job], *, most: int = MAX_POSITION) -> dict[str, Place]:
    """Return the place of each of these jobs, asked in one statement.

    Args:
        tx: the transaction.
        found: the jobs.
        most: the last place that is told: MAX_POSITION or NEAR_POSITION.
    """
    known = {job.id: Place() for job in found}
    queued = {job.id: job.queued_at for job in found if job.state is State.QUEUED}
    if not queued:
        return known
    rows = tx.connection.execute(_OUTLOOKS[most], {"ids": list(queued)}).all()
    usual = next((one for kind, _, one, _ in rows if kind == "ended"), None)
    slots = Slots(
        tuple(_left(eta, taken, usual) for kind, _, eta, taken in rows if kind == "running"), usual
    )
    now = next(one for kind, _, one, _ in rows if kind == "clock")
    for kind, job_id, one, _ in rows:
        if kind == "place":
            wait = slots.wait(int(one))
            pause = queued[job_id].timestamp() - now  # before another try
            starts = None if wait is None else max(wait, pause)
            known[job_id] = Place(int(one), starts)
    return known


def _left(eta: float | None, taken: float, usual: float | None) -> float | None:
    """Return how long a running job still takes: as it says itself, else as others did."""
    if eta is not None:
        return eta
    return None if usual is None else max(0.0, usual - taken)


def _outlook(most: int) -> TextClause:
    """Return what `places` asks, in one statement: rows of a kind, an id and two figures.

    A job's level is how many jobs of its project run when its turn comes, if none ends until then;
    projects that have to wait for their quotas are counted as if they had none. The ids alone are
    a parameter: with others PostgreSQL plans anew each time, which takes longer than to run it.
    """
    return text(f"""
{turns.WAITING_AND_BUSY}
SELECT 'running', jobs.id,
    CASE WHEN phase = 'training' AND progress ->> 'eta_seconds' IS NOT NULL THEN greatest(
        CAST(progress ->> 'eta_seconds' AS float) - {_seconds("now() - updated_at")}, 0
    ) END,
    {_seconds("now() - attempts.started_at")}
FROM jobs JOIN attempts ON attempts.job_id = jobs.id AND attempts.number = jobs.attempt
WHERE {turns.IS_LEASED}
UNION ALL
SELECT 'ended', '', percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds), NULL
FROM (
    SELECT {_seconds("finished_at - started_at")} AS seconds FROM jobs
    WHERE finished_at IS NOT NULL AND started_at IS NOT NULL
    ORDER BY finished_at DESC LIMIT {_NUM_RECENT}
) AS recent
UNION ALL
SELECT 'clock', '', {_seconds("now()")}, NULL
UNION ALL
SELECT 'place', id, place, NULL
FROM (
    SELECT id, row_number() OVER (ORDER BY priority DESC, level, queued_at, id) AS place
    FROM (
        SELECT head.*, coalesce(busy.num, 0) + head.rank AS level
        FROM waiting LEFT JOIN busy ON busy.project = waiting.project
        CROSS JOIN LATERAL (
            SELECT id, priority, queued_at,
                row_number() OVER (ORDER BY priority DESC, queued_at, id) AS rank
            FROM jobs WHERE project = waiting.project AND state = 'queued'
            ORDER BY priority DESC, queued_at, id LIMIT {most}
        ) AS head
    ) AS ranked
    ORDER BY place LIMIT {most}
) AS placed
WHERE id = ANY(:ids)
""")  # noqa: S608 - of constants


def _seconds(what: str) -> str:
    return f"CAST(extract(epoch FROM {what}) AS float)"


_OUTLOOKS = {most: _outlook(most) for most in (MAX_POSITION, NEAR_POSITION)}
