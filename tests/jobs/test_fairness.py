"""Whose turn it is among projects, and what a project's quotas hold back."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select, text

from jobs.states import State
from jobs.store import attempts, datasets, estimates, jobs, projects, quotas
from jobs.tables import usage
from tests.jobs.test_store import claim, database  # noqa: F401
from tests.stored import DATASET, keep_dataset
from trainer_core.errors import QuotaExceeded
from trainer_core.spec import parse_spec

pytestmark = pytest.mark.slow


def submit(database, project, *, priority=0, gpus="auto"):  # noqa: F811
    values = {
        "task": "text-classification",
        "model": "model:tiny",
        "data": {"train": f"dataset:{DATASET}"},
        "resources": {"priority": priority, "gpus": gpus},
    }
    with database.transaction() as tx:
        return jobs.create(tx, parse_spec(values), project=project, max_attempts=3)


def limit(database, project, **values):  # noqa: F811
    with database.transaction() as tx:
        projects.create(tx, project, quotas=values)


def end(database, job):  # noqa: F811
    with database.transaction() as tx:
        attempts.end(tx, job.id, State.SUCCEEDED, attempt=job.attempt, reason="test")


def positions(database, found):  # noqa: F811
    with database.transaction() as tx:
        places = estimates.places(tx, found)
        return {job_id: place.position for job_id, place in places.items() if place.position}


def test_project_that_runs_the_fewest_jobs_is_next_and_then_the_older_job(database):  # noqa: F811
    many = [submit(database, "many") for _ in range(4)]
    few = [submit(database, "few") for _ in range(2)]
    urgent = submit(database, "many", priority=5)

    taken = [claim(database) for _ in range(7)]

    order = [urgent, few[0], many[0], few[1], many[1], many[2], many[3]]
    assert [job.id for job in taken] == [job.id for job in order]
    assert claim(database) is None


def test_position_is_the_number_of_claims_until_a_jobs_turn(database):  # noqa: F811
    chance = random.Random(7)  # noqa: S311 - repeatable, not secret
    found = [
        submit(database, chance.choice("aaabbc"), priority=chance.choice([0, 0, 0, 1]))
        for _ in range(40)
    ]
    for _ in range(5):
        claim(database)
    told = positions(database, refreshed(database, found))

    taken = [claim(database) for _ in range(35)]

    assert [told[job.id] for job in taken] == list(range(1, 36))


def refreshed(database, found):  # noqa: F811
    with database.transaction() as tx:
        return [jobs.get_any(tx, job.id) for job in found]


def test_project_runs_no_more_jobs_than_it_may_however_many_claim_at_once(database):  # noqa: F811
    limit(database, "small", max_running_jobs=2)
    for _ in range(10):
        submit(database, "small")
    last = submit(database, "other")

    with ThreadPoolExecutor(16) as pool:
        taken = [job for job in pool.map(lambda _: claim(database), range(16)) if job]

    assert sorted(job.project for job in taken) == ["other", "small", "small"]
    end(database, next(job for job in taken if job.project == "small"))
    assert claim(database).project == "small"
    assert claim(database) is None
    assert last.id in {job.id for job in taken}


def test_racing_claims_of_many_projects_give_each_job_to_one_worker(database):  # noqa: F811
    made = {submit(database, f"p{n % 5}").id for n in range(40)}

    with ThreadPoolExecutor(8) as pool:
        taken = [job.id for job in pool.map(lambda _: claim(database), range(40)) if job]

    assert len(taken) == len(set(taken))
    assert set(taken) == made


def test_project_has_no_more_jobs_in_the_queue_than_it_may(database):  # noqa: F811
    limit(database, "small", max_queued_jobs=3)

    with ThreadPoolExecutor(8) as pool:
        tries = [pool.submit(submit, database, "small") for _ in range(12)]
    errors = [error for one in tries if (error := one.exception())]
    made = [one.result().id for one in tries if not one.exception()]

    assert len(made) == 3
    assert all(isinstance(error, QuotaExceeded) for error in errors)
    assert {"quota": "max_queued_jobs", "limit": 3, "retry_after_seconds": 30} in [
        error.detail for error in errors
    ]
    with database.transaction() as tx:
        jobs.pause(tx, made[0], project="small")
    submit(database, "small")
    with pytest.raises(QuotaExceeded), database.transaction() as tx:
        jobs.resume(tx, made[0], project="small")
    assert claim(database)
    submit(database, "small")


def test_device_hours_are_counted_by_device_and_used_up(database):  # noqa: F811
    limit(database, "small", max_device_hours=1.0)
    running = submit(database, "small", gpus=4)
    held = submit(database, "small")
    job = claim(database, num_gpus=4)
    assert job.id == running.id
    with database.transaction() as tx:
        tx.connection.execute(text("UPDATE attempts SET started_at = now() - interval '14 min'"))
        assert quotas.use_of(tx, "small").device_hours == pytest.approx(56 / 60, abs=0.02)
    submit(database, "small")
    with database.transaction() as tx:
        tx.connection.execute(text("UPDATE attempts SET started_at = now() - interval '16 min'"))
    with pytest.raises(QuotaExceeded, match="device-hours") as caught:
        submit(database, "small")
    assert 0 < caught.value.detail["retry_after_seconds"] <= 31 * 86_400

    end(database, job)

    with database.transaction() as tx:
        written = tx.connection.execute(select(usage.c.device_seconds)).scalar_one()
        assert written == pytest.approx(64 * 60, abs=60)
        assert quotas.use_of(tx, "small").device_hours == pytest.approx(64 / 60, abs=0.02)
    assert claim(database) is None  # what waits stays until there are hours again
    with database.transaction() as tx:
        projects.change(tx, "small", quotas={"max_device_hours": None})
    assert claim(database).id == held.id


def test_project_stores_no_more_than_it_may(database):  # noqa: F811
    limit(database, "small", max_storage_bytes=100)
    with database.transaction() as tx:
        keep_dataset(tx, "ds_1", project="small", size_bytes=60)
    too_much = pytest.raises(QuotaExceeded, match="stores 60 bytes, and this would be 41 more")
    with too_much, database.transaction() as tx:
        keep_dataset(tx, "ds_2", project="small", size_bytes=41)
    with database.transaction() as tx:
        keep_dataset(tx, "ds_3", project="small", size_bytes=40)
    with pytest.raises(QuotaExceeded, match="its quota is 100"):
        submit(database, "small")  # its model would have no room
    with database.transaction() as tx:
        datasets.remove(tx, "ds_1", project="small")
    submit(database, "small")
