"""Whose turn it is: by priority, then the project that runs the fewest jobs, then age.

A claim walks the index `ix_jobs_turns` project by project; it looks at no project's whole queue,
but for jobs that need more GPUs than it has. The recursion finds the projects that wait: older
versions of PostgreSQL have no other way to skip from one to the next.
"""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import text

from jobs.states import LEASED
from jobs.transaction import Transaction

_NUM_CANDIDATES = 32
"""Jobs of a project that are looked at: as many claims as may be under way at one moment."""
_LOCK_TIMEOUT = "3s"  # a worker that froze while it claimed must not hold up the others for long

IS_LEASED = "state IN ({})".format(", ".join(f"'{state}'" for state in sorted(LEASED)))
"""That a job is held by a worker."""
WAITING_AND_BUSY = f"""WITH RECURSIVE waiting(project) AS (
    (SELECT project FROM jobs WHERE state = 'queued' ORDER BY project LIMIT 1)
    UNION ALL
    SELECT (
        SELECT jobs.project FROM jobs
        WHERE state = 'queued' AND jobs.project > waiting.project ORDER BY project LIMIT 1
    ) FROM waiting WHERE waiting.project IS NOT NULL
), busy AS (
    SELECT project, count(*) AS num FROM jobs WHERE {IS_LEASED} GROUP BY project
)"""  # noqa: S608 - of constants
"""The projects that wait, and how many jobs each of those that run any runs."""

_NEXT = text(f"""
{WAITING_AND_BUSY}, candidates AS (
    SELECT head.*, coalesce(busy.num, 0) AS num_running, projects.max_running_jobs
    FROM waiting
    LEFT JOIN busy ON busy.project = waiting.project
    LEFT JOIN projects ON projects.name = waiting.project
    LEFT JOIN usage ON usage.project = waiting.project
        AND usage.month = date_trunc('month', now() AT TIME ZONE 'UTC')::date
    CROSS JOIN LATERAL (
        SELECT id, priority, queued_at FROM jobs
        WHERE project = waiting.project AND state = 'queued' AND queued_at <= now()
            AND num_gpus <= :num_gpus
        ORDER BY priority DESC, queued_at, id LIMIT :num_candidates
    ) AS head
    WHERE waiting.project <> ALL(:full)
        AND coalesce(busy.num, 0) < coalesce(projects.max_running_jobs, 2147483647)
        AND coalesce(usage.device_seconds, 0)
            < coalesce(projects.max_device_hours * 3600, 'infinity')
    ORDER BY head.priority DESC, num_running, head.queued_at, head.id LIMIT :num_candidates
)
SELECT jobs.id, jobs.project, candidates.max_running_jobs
-- The state is looked at again once the row is locked: the job may have been taken since.
FROM candidates JOIN jobs ON jobs.id = candidates.id AND jobs.state = 'queued'
ORDER BY candidates.priority DESC, num_running, candidates.queued_at, candidates.id
LIMIT 1
FOR UPDATE OF jobs SKIP LOCKED
""")  # noqa: S608 - of constants


@dataclass(frozen=True, slots=True)
class Turn:
    """The job whose turn it is, locked."""

    job_id: str
    project: str
    max_running_jobs: int | None


def take(tx: Transaction, *, num_gpus: int) -> str | None:
    """Return the job whose turn it is, locked until the commit, or None.

    A job that needs more than `num_gpus` is left to others.
    A project that runs as many jobs as it may is passed over, and so is one that has used up its
    device-hours of the month. How many run is counted again under a lock of the project, if it has
    such a quota: of two claims at once the second counts the first.
    """
    full: list[str] = []
    while True:
        turn = _next(tx, full=full, num_gpus=num_gpus)
        if turn is None or turn.max_running_jobs is None:
            return None if turn is None else turn.job_id
        if _num_running(tx, turn.project) < turn.max_running_jobs:
            return turn.job_id
        full.append(turn.project)


def _next(tx: Transaction, *, full: Collection[str], num_gpus: int) -> Turn | None:
    values = {"full": list(full), "num_gpus": num_gpus, "num_candidates": _NUM_CANDIDATES}
    row = tx.connection.execute(_NEXT, values).one_or_none()
    return None if row is None else Turn(*row)


def _num_running(tx: Transaction, project: str) -> int:
    tx.connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'"))
    key = {"key": f"running jobs of {project}"}
    tx.connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), key)
    count = text(f"SELECT count(*) FROM jobs WHERE project = :project AND {IS_LEASED}")  # noqa: S608
    return int(tx.connection.execute(count, {"project": project}).scalar_one())
