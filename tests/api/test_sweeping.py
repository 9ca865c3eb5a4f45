"""The sweeper: lost leases and lost bells."""

import logging
import threading
import time

import httpx
import pytest
import redis

from api.sweeping import sweep
from jobs.backends import Backends, connect
from jobs.queue import QUEUE
from jobs.records import Job
from jobs.settings import Settings
from jobs.states import State
from jobs.store import attempts, events, jobs
from tests.api.conftest import claim, serve, submit

pytestmark = pytest.mark.slow


@pytest.fixture
def queue(settings: Settings) -> redis.Redis:
    """The workers' queue, empty."""
    assert settings.redis_url is not None
    server = redis.Redis.from_url(settings.redis_url)
    server.delete(QUEUE)
    return server


def rung(queue: redis.Redis, count: int) -> bool:
    """Return whether so many bells hang, and no more; they are rung just after the answer."""
    deadline = time.monotonic() + 10
    while queue.llen(QUEUE) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(queue.llen(QUEUE) == count)


def read(backends: Backends, job_id: str) -> Job:
    with backends.database.transaction() as tx:
        return jobs.get(tx, job_id, project="default")


def expire(backends: Backends, *, attempts_left: bool = True) -> Job:
    """Claim the next job as a worker that is never heard of again."""
    job = claim(backends, lease_seconds=0)
    with backends.engine.begin() as connection:
        if not attempts_left:
            connection.exec_driver_sql("UPDATE jobs SET max_attempts = attempt")
    return job


def make_old(backends: Backends) -> None:
    with backends.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE jobs SET queued_at = queued_at - interval '2 hours'")


def test_job_that_lost_its_worker_is_queued_again_and_rung_for(
    client: httpx.Client, backends: Backends, queue: redis.Redis
) -> None:
    job_id = submit(client)
    expire(backends)
    assert rung(queue, 1)
    queue.delete(QUEUE)

    sweep(backends)

    job = read(backends, job_id)
    with backends.database.transaction() as tx:
        (attempt,) = attempts.of_job(tx, job_id)
    assert (job.state, job.attempt, job.worker) == (State.QUEUED, 1, None)
    assert (attempt.reason, attempt.finished_at is not None) == ("lease lost", True)
    assert rung(queue, 1)


def test_job_without_attempts_left_fails_with_the_reason(
    client: httpx.Client, backends: Backends, queue: redis.Redis
) -> None:
    job_id = submit(client)
    expire(backends, attempts_left=False)

    sweep(backends)

    told = client.get(f"/jobs/{job_id}").json()
    assert told["state"] == "failed"
    assert (told["error"]["code"], told["error"]["whose"]) == ("worker_lost", "system")


def test_job_that_was_to_be_cancelled_is_cancelled(
    client: httpx.Client, backends: Backends, queue: redis.Redis
) -> None:
    job_id = submit(client)
    expire(backends)
    client.post(f"/jobs/{job_id}/cancel")

    sweep(backends)

    assert read(backends, job_id).state is State.CANCELLED


def test_job_with_a_lease_is_left_alone(
    client: httpx.Client, backends: Backends, queue: redis.Redis
) -> None:
    job_id = submit(client)
    claim(backends, lease_seconds=60)

    sweep(backends)

    assert read(backends, job_id).state is State.RUNNING


def test_lost_bell_is_rung_again(
    client: httpx.Client, backends: Backends, queue: redis.Redis
) -> None:
    submit(client)
    assert rung(queue, 1)
    queue.delete(QUEUE)
    sweep(backends)
    assert queue.llen(QUEUE) == 0, "a job that has just been submitted is not late"
    make_old(backends)

    sweep(backends)

    assert rung(queue, 1)


def test_bells_that_still_hang_are_not_doubled(
    client: httpx.Client, backends: Backends, queue: redis.Redis
) -> None:
    for _ in range(3):
        submit(client)
    make_old(backends)
    assert rung(queue, 3)
    queue.lpop(QUEUE)
    assert queue.llen(QUEUE) == 2

    for _ in range(4):
        sweep(backends)

    assert rung(queue, 3)


def test_many_sweepers_at_once_requeue_once(
    client: httpx.Client, backends: Backends, queue: redis.Redis, settings: Settings
) -> None:
    lost = [submit(client) for _ in range(5)]
    for _ in lost:
        expire(backends)
    others = [connect(settings) for _ in range(4)]
    barrier = threading.Barrier(len(others))

    def run(own: Backends) -> None:
        barrier.wait()
        for _ in range(5):
            sweep(own)

    threads = [threading.Thread(target=run, args=[own]) for own in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for own in others:
        own.engine.dispose()

    for job_id in lost:
        with backends.database.transaction() as tx:
            told = events.read(tx, job_id, after=0, limit=100)
        states = [event.data["state"] for event in told if event.type == "state"]
        assert states == ["queued", "running", "queued"]
        assert [event.id for event in told] == list(range(1, len(told) + 1))


def test_sweeper_without_redis_still_takes_jobs_back(
    client: httpx.Client, backends: Backends, settings: Settings
) -> None:
    job_id = submit(client)
    expire(backends)
    deaf = connect(settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"}))

    sweep(deaf)
    deaf.engine.dispose()

    assert read(backends, job_id).state is State.QUEUED


def test_service_sweeps_by_itself_and_goes_on_after_a_failure(
    service_settings: Settings, backends: Backends, caplog: pytest.LogCaptureFixture
) -> None:
    settings = service_settings.model_copy(update={"sweep_seconds": 0.1})
    with serve(settings) as url, httpx.Client(base_url=url) as client:
        job_id = submit(client)
        with backends.engine.begin() as connection, caplog.at_level(logging.CRITICAL):
            connection.exec_driver_sql("ALTER TABLE jobs RENAME COLUMN lease_until TO gone")
        time.sleep(0.5)
        with backends.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE jobs RENAME COLUMN gone TO lease_until")
        expire(backends)
        deadline = time.monotonic() + 10
        while read(backends, job_id).state is not State.QUEUED and time.monotonic() < deadline:
            time.sleep(0.05)
        state = read(backends, job_id).state

    assert state is State.QUEUED
    assert any("a sweep failed" in record.message for record in caplog.records)
