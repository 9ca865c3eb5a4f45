"""Jobs as their owner sees them, with what only a query tells."""

from api.schemas import Job, JobDetail
from jobs.records import Job as StoredJob
from jobs.states import FINAL
from jobs.store import artifacts, attempts, estimates, pushes
from jobs.transaction import Transaction


def shown(tx: Transaction, job: StoredJob) -> Job:
    """Return a job with its place in the queue."""
    return Job.of(job, place=estimates.places(tx, [job])[job.id])


def shown_new(tx: Transaction, job: StoredJob) -> Job:
    """Return a job that is just queued, with its place if that is near."""
    return Job.of(job, place=estimates.places(tx, [job], most=estimates.NEAR_POSITION)[job.id])


def shown_whole(tx: Transaction, job: StoredJob) -> JobDetail:
    """Return a job with its place in the queue, its attempts, its files and its pushes.

    What a job in its state can't have is not asked for: it is those under way that are polled.
    """
    return JobDetail.whole(
        job,
        place=estimates.places(tx, [job])[job.id],
        attempts=attempts.of_job(tx, job.id) if job.attempt else [],
        artifacts=artifacts.of_job(tx, job.id) if job.state in FINAL else [],
        pushes=pushes.of_job(tx, job.id) if job.attempt else [],
    )
