"""Claims, fences, events and endings, on a real PostgreSQL, several connections at a time."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from jobs import tables
from jobs.records import Job
from jobs.states import FINAL, State
from jobs.store import artifacts, attempts, datasets, estimates, events, jobs, listing, models
from jobs.store.attempts import Held
from jobs.store.events import LeaseLost, NewEvent
from tests.stored import DATASET, keep_dataset
from trainer_core.errors import (
    DatasetInUse,
    DatasetNotFound,
    IllegalTransition,
    JobNotFound,
    NameTaken,
)
from trainer_core.spec import parse_spec

pytestmark = pytest.mark.slow


@pytest.fixture
def database(backends):
    with backends.database.transaction() as tx:
        keep_dataset(tx)
    return backends.database


def test_record_of_a_job_has_a_field_for_each_column_in_their_order() -> None:
    assert list(Job.__dataclass_fields__) == list(tables.jobs.c.keys())


def submit(database, **changes):
    values = {
        "task": "text-classification",
        "model": "model:tiny",
        "data": {"train": f"dataset:{DATASET}"},
        **changes,
    }
    with database.transaction() as tx:
        return jobs.create(tx, parse_spec(values), project="default", max_attempts=2)


def claim(database, *, worker="w", lease_seconds=30.0, num_gpus=0):
    with database.transaction() as tx:
        return attempts.claim(tx, worker=worker, lease_seconds=lease_seconds, num_gpus=num_gpus)


def end(database, job, target, **values):
    with database.transaction() as tx:
        return attempts.end(tx, job.id, target, attempt=job.attempt, reason="test", values=values)


def job_of(database, job_id):
    with database.transaction() as tx:
        return jobs.get(tx, job_id, project="default")


def events_of(database, job_id):
    with database.transaction() as tx:
        return events.read(tx, job_id, after=0, limit=10_000)


def test_forty_racing_claims_give_each_job_to_one_worker(database):
    submitted = {submit(database).id for _ in range(10)}
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda n: claim(database, worker=f"w{n}"), range(40)))
    won = [job.id for job in claimed if job is not None]
    # SKIP LOCKED may pass over a row that a neighbour is just taking: nothing is lost by it.
    while (left := claim(database)) is not None:
        won.append(left.id)
    assert sorted(won) == sorted(submitted)


def test_priority_then_order_of_submission_decides_the_turn(database):
    first, second = submit(database), submit(database)
    urgent = submit(database, resources={"priority": 5})
    with database.transaction() as tx:
        places = estimates.places(tx, [first, second, urgent])
    assert {job_id: place.position for job_id, place in places.items()} == {
        urgent.id: 1,
        first.id: 2,
        second.id: 3,
    }
    assert [claim(database).id for _ in range(3)] == [urgent.id, first.id, second.id]
    assert claim(database) is None


def test_events_written_from_eight_threads_are_numbered_without_a_gap(database):
    job = submit(database)

    def write(number):
        with database.transaction() as tx:
            new = [NewEvent("log", {"n": number, "part": part}) for part in range(3)]
            events.append(tx, job.id, new)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    stored = events_of(database, job.id)
    assert [event.id for event in stored] == list(range(1, 122))
    parts = [event.data["part"] for event in stored if event.type == "log"]
    assert parts == [0, 1, 2] * 40  # what one transaction wrote stays together


def test_rolled_back_events_leave_no_gap(database):
    job = submit(database)
    with pytest.raises(RuntimeError), database.transaction() as tx:
        events.append(tx, job.id, [NewEvent("log", {})])
        raise RuntimeError
    with database.transaction() as tx:
        events.append(tx, job.id, [NewEvent("log", {})])
    assert [event.id for event in events_of(database, job.id)] == [1, 2]


def test_job_is_left_to_a_worker_with_as_many_gpus_as_it_needs(database):
    two, one, any_, none = (
        submit(database, resources={"gpus": gpus}) for gpus in (2, 1, "auto", 0)
    )
    assert claim(database).id == any_.id
    assert claim(database, num_gpus=1).id == one.id
    assert claim(database).id == none.id
    assert claim(database, num_gpus=1) is None
    assert claim(database, num_gpus=4).id == two.id


def test_overtaken_attempt_writes_nothing(database):
    submit(database)
    stale = claim(database, lease_seconds=1)
    with database.transaction() as tx:
        tx.connection.execute(text("UPDATE jobs SET lease_until = now() - interval '1 second'"))
    with database.transaction() as tx:
        (lost,) = attempts.expired(tx)
        attempts.take_back(tx, lost)
    fresh = claim(database)
    assert (fresh.id, fresh.attempt) == (stale.id, 2)
    before = events_of(database, stale.id)
    writes = [
        lambda tx: events.append(tx, stale.id, [NewEvent("log", {})], attempt=stale.attempt),
        lambda tx: attempts.note(tx, stale.id, attempt=stale.attempt, values={"phase": "x"}),
        lambda tx: attempts.renew(tx, stale.id, attempt=stale.attempt, lease_seconds=9),
        lambda tx: attempts.end(tx, stale.id, State.SUCCEEDED, attempt=stale.attempt, reason=""),
    ]
    for write in writes:
        with pytest.raises(LeaseLost), database.transaction() as tx:
            write(tx)
    assert events_of(database, stale.id) == before
    assert job_of(database, stale.id).state is State.RUNNING


def test_lease_lost_for_the_last_time_fails_the_job_with_the_reason(database):
    job = submit(database)
    for _ in range(2):
        claim(database)
        with database.transaction() as tx:
            tx.connection.execute(text("UPDATE jobs SET lease_until = now() - interval '1 s'"))
        with database.transaction() as tx:
            attempts.take_back(tx, attempts.expired(tx)[0])
    ended = job_of(database, job.id)
    assert ended.state is State.FAILED
    assert ended.error["code"] == "worker_lost"
    with database.transaction() as tx:
        assert [a.reason for a in attempts.of_job(tx, job.id)] == ["lease lost", "lease lost"]


@pytest.mark.parametrize("final", sorted(FINAL))
def test_final_state_is_written_once(database, final):
    submit(database)
    job = claim(database)
    if final is State.CANCELLED:
        with database.transaction() as tx:
            jobs.cancel(tx, job.id, project="default")
    error = {"error": {"code": "x"}} if final is State.FAILED else {}
    end(database, job, final, **error)
    for target in State:
        with pytest.raises(LeaseLost):
            end(database, job, target)
    assert job_of(database, job.id).state is final
    states = [e.data["state"] for e in events_of(database, job.id) if e.type == "state"]
    assert states.count(final) == 1


def test_cancel_of_a_queued_job_is_final_at_once(database):
    job = submit(database)
    with database.transaction() as tx:
        assert jobs.cancel(tx, job.id, project="default").state is State.CANCELLED
    assert claim(database) is None
    with database.transaction() as tx:
        assert (
            jobs.cancel(tx, job.id, project="default").state is State.CANCELLED
        )  # again is no error


def test_cancel_of_a_running_job_asks_its_worker(database):
    submit(database)
    job = claim(database)
    with database.transaction() as tx:
        assert jobs.cancel(tx, job.id, project="default").state is State.CANCELLING
    with database.transaction() as tx:
        held = attempts.renew(tx, job.id, attempt=job.attempt, lease_seconds=9)
    assert held == Held(State.CANCELLING, keep=False)
    with pytest.raises(LeaseLost):  # a success that comes too late does not undo the request
        end(database, job, State.SUCCEEDED)
    assert end(database, job, State.CANCELLED).state is State.CANCELLED


def test_cancel_of_a_finished_job_is_refused(database):
    submit(database)
    job = claim(database)
    end(database, job, State.SUCCEEDED)
    with pytest.raises(IllegalTransition, match="already succeeded"), database.transaction() as tx:
        jobs.cancel(tx, job.id, project="default")


def test_cancel_racing_with_the_end_leaves_one_final_state(database):
    for _ in range(20):
        submit(database)
        job = claim(database)
        barrier = threading.Barrier(2)

        def cancel(job=job, barrier=barrier):
            barrier.wait()
            try:
                with database.transaction() as tx:
                    jobs.cancel(tx, job.id, project="default")
            except IllegalTransition:
                return

        def finish(job=job, barrier=barrier):
            barrier.wait()
            try:
                end(database, job, State.SUCCEEDED)
            except LeaseLost:
                end(database, job, State.CANCELLED)

        with ThreadPoolExecutor(2) as pool:
            for future in [pool.submit(cancel), pool.submit(finish)]:
                future.result()
        final = [
            e.data["state"]
            for e in events_of(database, job.id)
            if e.type == "state" and e.data["state"] in FINAL
        ]
        assert len(final) == 1
        assert job_of(database, job.id).state == final[0]


def test_pages_show_every_older_job_once_while_new_ones_come(database):
    old = [submit(database, labels={"team": "a"}).id for _ in range(7)]
    wanted = listing.Filter("default", labels=frozenset({("team", "a")}))
    seen, after = [], None
    while True:
        with database.transaction() as tx:
            page = listing.page(tx, wanted, after=after, limit=2)
        if not page:
            break
        seen += [job.id for job in page]
        after = page[-1].id
        submit(database, labels={"team": "a"})
        submit(database, labels={"team": "b"})
    assert [job_id for job_id in seen if job_id in old] == sorted(old, reverse=True)
    assert len(seen) == len(set(seen))


def test_another_project_sees_no_job(database):
    job = submit(database)
    with pytest.raises(JobNotFound), database.transaction() as tx:
        jobs.get(tx, job.id, project="other")


def test_dataset_of_a_waiting_job_stays_and_of_a_finished_one_goes(database):
    job = submit(database)
    with pytest.raises(DatasetInUse, match=job.id), database.transaction() as tx:
        datasets.remove(tx, DATASET, project="default")
    with database.transaction() as tx:
        jobs.cancel(tx, job.id, project="default")
    with database.transaction() as tx:
        datasets.remove(tx, DATASET, project="default")
    with pytest.raises(DatasetNotFound):
        submit(database)


def test_text_that_postgres_refuses_is_kept_readable(database):
    job = submit(database)
    with database.transaction() as tx:
        events.append(tx, job.id, [NewEvent("log", {"a\x00": ["b\x00", float("nan"), 1.5]})])
    assert events_of(database, job.id)[-1].data == {"a\ufffd": ["b\ufffd", None, 1.5]}


def test_files_of_a_job_are_found_by_their_exact_path_only(database):
    submit(database)
    job = claim(database)
    row = {"path": "a/b.txt", "key": "k", "size_bytes": 1, "sha256": "0" * 64}
    with database.transaction() as tx:
        artifacts.add(tx, job.id, [row])
    with database.transaction() as tx:
        assert artifacts.get(tx, job.id, "a/b.txt").key == "k"
        for path in ("b.txt", "a/../a/b.txt", "a//b.txt", "/a/b.txt"):
            with pytest.raises(Exception, match="no file"):
                artifacts.get(tx, job.id, path)


def test_model_names_are_taken_once(database):
    with database.transaction() as tx:
        models.create(tx, "m", project="default", path="/x", hub=None, revision=None)
    with pytest.raises(NameTaken), database.transaction() as tx:
        models.create(tx, "m", project="default", path=None, hub="a/b", revision=None)


def test_unanswered_jobs_are_those_that_wait_too_long(database):
    job = submit(database)
    with database.transaction() as tx:
        assert attempts.unanswered(tx, older_than_seconds=60) == []
        assert attempts.unanswered(tx, older_than_seconds=-1) == [job.id]
