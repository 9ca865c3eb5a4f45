"""What owners ask of jobs, in each state: cancel, cancel with keep, pause, resume."""

from functools import partial

import pytest
from sqlalchemy import text

from jobs.states import State
from jobs.store import attempts, estimates, events, jobs
from jobs.store.attempts import Held
from jobs.store.events import LeaseLost
from jobs.tables import jobs as table
from tests.jobs.test_store import claim, database, end, events_of, job_of, submit
from trainer_core.errors import IllegalTransition, JobNotFound

pytestmark = pytest.mark.slow

__all__ = ["database"]

REFUSED = None
ACTIONS = {
    "cancel": partial(jobs.cancel, project="default"),
    "keep": partial(jobs.cancel, project="default", keep=True),
    "pause": partial(jobs.pause, project="default"),
    "resume": partial(jobs.resume, project="default"),
}
LEADS_TO = {
    State.QUEUED: ("cancelled", "cancelled", "paused", "queued"),
    State.RUNNING: ("cancelling", "cancelling", "pausing", "running"),
    State.PAUSING: ("cancelling", "cancelling", "pausing", REFUSED),
    State.PAUSED: ("cancelled", "cancelled", "paused", "queued"),
    State.CANCELLING: ("cancelling", "cancelling", REFUSED, REFUSED),
    State.SUCCEEDED: (REFUSED, REFUSED, REFUSED, REFUSED),
    State.FAILED: (REFUSED, REFUSED, REFUSED, REFUSED),
    State.CANCELLED: ("cancelled", "cancelled", REFUSED, REFUSED),
}
CASES = [
    pytest.param(state, action, target, id=f"{action}-{state}")
    for state, targets in LEADS_TO.items()
    for action, target in zip(ACTIONS, targets, strict=True)
]


def job_in(database, state):
    """Bring a fresh job to a state on a legal road."""
    job = submit(database)
    if state is State.QUEUED:
        return job
    if state is State.PAUSED:
        return act(database, "pause", job)
    job = claim(database)
    match state:
        case State.PAUSING:
            act(database, "pause", job)
        case State.CANCELLING | State.CANCELLED:
            act(database, "cancel", job)
    if state in (State.SUCCEEDED, State.FAILED, State.CANCELLED):
        end(database, job, state)
    return job_of(database, job.id)


def act(database, action, job):
    with database.transaction() as tx:
        return ACTIONS[action](tx, job.id)


@pytest.mark.parametrize(("state", "action", "target"), CASES)
def test_each_request_in_each_state(database, state, action, target):
    job = job_in(database, state)
    before = events_of(database, job.id)
    if target is REFUSED:
        with pytest.raises(IllegalTransition, match=job.id):
            act(database, action, job)
        assert job_of(database, job.id).state is state
        assert events_of(database, job.id) == before
        return
    moved = act(database, action, job)
    assert moved.state == target
    said = events_of(database, job.id)[len(before) :]
    assert [event.data["state"] for event in said] == ([target] if target != state else [])
    assert act(database, action, job).state == target  # again is no error, and no event
    assert len(events_of(database, job.id)) == len(before) + len(said)
    assert (moved.finished_at is not None) == (target == "cancelled")


def test_a_resumed_job_comes_last_of_its_priority_and_rings(database):
    first, second = submit(database), submit(database)
    act(database, "pause", first)
    with database.transaction() as tx:
        resumed = jobs.resume(tx, first.id, project="default")
        assert tx.bells == [first.id]
    with database.transaction() as tx:
        places = estimates.places(tx, [resumed, second])
    assert (places[second.id].position, places[first.id].position) == (1, 2)
    assert [claim(database).id for _ in range(2)] == [second.id, first.id]


def test_a_paused_job_is_claimed_by_nobody_and_rung_for_by_nobody(database):
    job = submit(database)
    act(database, "pause", job)
    assert claim(database) is None
    with database.transaction() as tx:
        assert attempts.unanswered(tx, older_than_seconds=-1) == []


def test_the_worker_hears_of_each_request_when_it_renews(database):
    submit(database)
    job = claim(database)

    def heard():
        with database.transaction() as tx:
            return attempts.renew(tx, job.id, attempt=job.attempt, lease_seconds=9)

    assert heard() == Held(State.RUNNING, keep=False)
    act(database, "pause", job)
    assert heard() == Held(State.PAUSING, keep=False)
    act(database, "keep", job)
    assert heard() == Held(State.CANCELLING, keep=True)
    act(database, "cancel", job)
    assert heard() == Held(State.CANCELLING, keep=False)
    act(database, "keep", job)  # what is to end at once is not called back
    assert heard() == Held(State.CANCELLING, keep=False)


def test_cancelling_at_once_after_keep_is_told(database):
    job = job_in(database, State.RUNNING)
    act(database, "keep", job)
    act(database, "cancel", job)
    reasons = [e.data["reason"] for e in events_of(database, job.id)][-2:]
    assert reasons == ["cancelled by request, keeping its model", "cancelled by request"]


@pytest.mark.parametrize("state", [State.QUEUED, State.PAUSED])
def test_steps_of_a_job_that_waits_are_not_lost_to_a_wish_to_keep_them(database, state):
    job = submit(database)
    with database.transaction() as tx:
        tx.connection.execute(table.update().values(progress={"step": 7}, state=state))
    with pytest.raises(IllegalTransition, match="after 7 steps"):
        act(database, "keep", job)
    assert job_of(database, job.id).state is state
    assert act(database, "cancel", job).state is State.CANCELLED


def test_keep_of_a_job_without_steps_says_that_nothing_is_kept(database):
    job = submit(database)
    act(database, "keep", job)
    last = events_of(database, job.id)[-1].data
    assert last["reason"] == "cancelled by request; no step was taken, so no model is kept"


def test_a_job_that_is_pausing_goes_back_to_no_queue(database):
    job = job_in(database, State.PAUSING)
    with pytest.raises(LeaseLost):
        end(database, job, State.QUEUED)
    assert end(database, job, State.PAUSED).state is State.PAUSED


@pytest.mark.parametrize(
    ("state", "left", "reason"),
    [
        ("pausing", "paused", "lease lost"),
        ("cancelling", "cancelled", "lease lost"),
        ("keep", "cancelled", "lease lost; no model is kept"),
        ("running", "queued", "lease lost"),
    ],
)
def test_a_lost_lease_leaves_the_job_as_its_owner_asked(database, state, left, reason):
    job = job_in(database, State.RUNNING if state == "keep" else State(state))
    if state == "keep":
        act(database, "keep", job)
    with database.transaction() as tx:
        tx.connection.execute(text("UPDATE jobs SET lease_until = now() - interval '1 s'"))
    with database.transaction() as tx:
        (lost,) = attempts.expired(tx)
        assert attempts.take_back(tx, lost).state == left
    assert events_of(database, job.id)[-1].data["reason"] == reason


def test_the_receipt_comes_with_the_event_of_the_state(database):
    job = job_in(database, State.PAUSING)
    with database.transaction() as tx:
        attempts.end(
            tx,
            job.id,
            State.PAUSED,
            attempt=job.attempt,
            reason="paused by request",
            receipt={"process_gone": True},
        )
        last = events.read(tx, job.id, after=0, limit=100)[-1]
    assert last.data["state"] == "paused"
    assert last.data["receipt"] == {"process_gone": True}


def test_another_project_asks_for_nothing(database):
    job = submit(database)
    for ask in (jobs.cancel, jobs.pause, jobs.resume):
        with pytest.raises(JobNotFound), database.transaction() as tx:
            ask(tx, job.id, project="other")
