"""When queued jobs may start: by the slots that are busy and by what jobs took before."""

import random

import pytest
from sqlalchemy import text

from jobs.states import State
from jobs.store import attempts, estimates, jobs
from jobs.store.estimates import Place, Slots
from tests.jobs.test_store import claim, database, submit  # noqa: F401

pytestmark = pytest.mark.slow


def simulated(left, usual, position):
    """Count the seconds one by one: a slot that is free takes the next of the queue."""
    slots, waiting, clock = list(left), position, 0
    while True:
        for place, seconds in enumerate(slots):
            if seconds <= clock:
                waiting -= 1
                if waiting == 0:
                    return clock
                slots[place] = clock + usual
        clock += 1


def test_wait_is_that_of_slots_that_take_one_job_after_the_other():
    chance = random.Random(4)  # noqa: S311 - repeatable, not secret
    for _ in range(200):
        left = tuple(chance.randint(0, 50) for _ in range(chance.randint(1, 4)))
        usual, position = chance.randint(1, 40), chance.randint(1, 9)
        slots = Slots(tuple(map(float, left)), float(usual))
        assert slots.wait(position) == simulated(left, usual, position)


@pytest.mark.parametrize(
    ("slots", "position"),
    [
        (Slots((), 10.0), 1),  # nobody may be there to take it
        (Slots((5.0, None), None), 1),
        (Slots((5.0,), None), 2),  # nobody knows how long the one before it takes
    ],
)
def test_what_can_not_be_told_is_not_made_up(slots, position):
    assert slots.wait(position) is None


def places(database, *found):  # noqa: F811
    with database.transaction() as tx:
        found = [jobs.get(tx, job.id, project="default") for job in found]
        return estimates.places(tx, found)


def test_queued_jobs_start_after_what_runs_and_what_is_before_them(database):  # noqa: F811
    ended = submit(database)
    claim(database)
    with database.transaction() as tx:
        attempts.end(tx, ended.id, State.SUCCEEDED, attempt=1, reason="")
    running, first, second = (submit(database) for _ in range(3))
    claim(database)
    assert places(database, first)[first.id].position == 1
    execute(database, f"SET started_at = finished_at - interval '100 s' WHERE id = '{ended.id}'")
    with database.transaction() as tx:
        progress = {"step": 1, "eta_seconds": 30.0}
        attempts.note(tx, running.id, attempt=1, values={"progress": progress, "phase": "training"})
    found = places(database, running, first, second)
    assert found[running.id] == Place()
    assert found[first.id].start_estimate_seconds == pytest.approx(30, abs=5)
    assert found[second.id].start_estimate_seconds == pytest.approx(130, abs=5)
    # One that is to be tried again later does not start before.
    execute(database, f"SET queued_at = now() + interval '500 s' WHERE id = '{second.id}'")
    assert places(database, second)[second.id].start_estimate_seconds == pytest.approx(500, abs=5)


def test_job_that_does_not_tell_when_it_ends_takes_as_long_as_the_median_of_those_before(
    database,  # noqa: F811
):
    for seconds in (10, 40, 60, 1000):
        ended = submit(database)
        claim(database)
        with database.transaction() as tx:
            attempts.end(tx, ended.id, State.SUCCEEDED, attempt=1, reason="")
        ago = f"interval '{seconds} s'"
        execute(database, f"SET started_at = finished_at - {ago} WHERE id = '{ended.id}'")
    running, waiting = submit(database), submit(database)
    claim(database)
    with database.transaction() as tx:
        progress = {"step": 1, "eta_seconds": None}
        attempts.note(tx, running.id, attempt=1, values={"progress": progress, "phase": "training"})
    assert places(database, waiting)[waiting.id].start_estimate_seconds == pytest.approx(50, abs=5)


def test_nothing_is_said_of_a_job_whose_workers_are_idle_or_not_there(database):  # noqa: F811
    job = submit(database)
    assert places(database, job)[job.id] == Place(1, None)


def execute(database, change):  # noqa: F811
    with database.transaction() as tx:
        tx.connection.execute(text(f"UPDATE jobs {change}"))
