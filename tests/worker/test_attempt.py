"""Attempts under faults of the database, the storage and the machine, without any training.

The training process is stood in for by a finished run directory, which `worker.inputs` takes over
from an earlier attempt: nothing of an attempt's own code is replaced.
"""

import errno
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import event, text

from jobs.states import State
from jobs.storage import Storage
from jobs.store import artifacts, attempts, events, jobs
from jobs.store.events import LeaseLost
from jobs.tables import jobs as table
from trainer_core.errors import ServiceUnavailable
from trainer_core.run_directory import (
    Outcome,
    Result,
    RunDirectory,
    seal,
    verified_manifest,
    write_json,
)
from worker.attempt import Attempt
from worker.inputs import runs_of
from worker.lease import Lease
from worker.outputs import tidy, tidy_finished
from worker.pump import MAX_LOG_LINES, Pump
from worker.spare import Spare

pytestmark = pytest.mark.slow


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"lease_seconds": 3.0, "warm_spare": False})


@pytest.fixture
def claim(backends, submit):
    def claim():
        submit()
        with backends.database.transaction() as tx:
            return attempts.claim(tx, worker="w", lease_seconds=3.0)

    return claim


@pytest.fixture
def trained(backends, submit):
    """A job in its second attempt, whose first one trained and did not get to store the model."""
    job = submit()
    run = RunDirectory(runs_of(backends) / job.id / "attempt-1")
    run.model.mkdir(parents=True)
    (run.model / "config.json").write_text("{}")
    (run.model / "model.safetensors").write_bytes(b"\x00" * 1000)
    seal(run.model)
    outcome = Outcome(Result.SUCCEEDED, step=10, best_step=5, metrics={"accuracy": 0.9})
    write_json(run.outcome, outcome.to_dict())
    with backends.database.transaction() as tx:
        tx.connection.execute(table.update().values(attempt=1))
    with backends.database.transaction() as tx:
        return attempts.claim(tx, worker="w", lease_seconds=3.0)


def attempt_of(backends, job, *, is_draining=lambda: False):
    return Attempt(backends, job, Spare(backends.settings), "cpu", is_draining)


def job_of(backends, job):
    with backends.database.transaction() as tx:
        return jobs.get(tx, job.id, project="default")


def stored_files(backends, job):
    with backends.database.transaction() as tx:
        return artifacts.of_job(tx, job.id)


class BrokenStorage(Storage):
    """A storage that fails to write until it is mended."""

    is_mended = False

    def put(self, key, source):
        if not self.is_mended:
            raise ServiceUnavailable("the bucket is away", hint="Wait.")
        return super().put(key, source)


@pytest.fixture
def broken(backends):
    """The same backends with a storage that can't be written."""
    storage = BrokenStorage(backends.settings.storage)
    return type(backends)(
        settings=backends.settings,
        engine=backends.engine,
        database=backends.database,
        storage=storage,
        redis_url=backends.redis_url,
    )


def test_model_of_an_earlier_attempt_is_stored_without_training_again(backends, trained):
    assert attempt_of(backends, trained).carry_out()
    ended = job_of(backends, trained)
    assert (ended.state, ended.best) == (
        State.SUCCEEDED,
        {"step": 5, "metrics": {"accuracy": 0.9}},
    )
    files = stored_files(backends, trained)
    assert {file.path for file in files} == {"config.json", "model.safetensors", "manifest.json"}
    assert all(b"".join(backends.storage.read(f.key, start=0, end=f.size_bytes)) for f in files)
    assert not (runs_of(backends) / trained.id).exists()


def test_what_a_dead_attempt_had_stored_is_forgotten_and_nobody_elses(backends, trained):
    begun, later = (f"jobs/{trained.id}/attempt-{n}/model/config.json" for n in (1, 3))
    other = "jobs/job_of_another/attempt-1/model/config.json"
    for key in (begun, later, other):
        backends.storage.put(key, [b"{}"])
    assert attempt_of(backends, trained).carry_out()
    left = set(backends.storage.keys("jobs/"))
    named = {file.key for file in stored_files(backends, trained)}
    assert left == named | {later, other}


def test_storage_outage_after_training_only_delays_the_model(broken, trained):
    carrying = threading.Thread(target=attempt_of(broken, trained).carry_out)
    carrying.start()
    time.sleep(broken.settings.lease_seconds + 1)  # the lease is renewed meanwhile
    assert job_of(broken, trained).state is State.RUNNING
    broken.storage.is_mended = True
    carrying.join(timeout=30)
    assert job_of(broken, trained).state is State.SUCCEEDED


def test_cancel_is_heard_while_the_model_is_being_stored(broken, trained):
    carrying = threading.Thread(target=attempt_of(broken, trained).carry_out)
    carrying.start()
    time.sleep(1)
    with broken.database.transaction() as tx:
        jobs.cancel(tx, trained.id, project="default")
    carrying.join(timeout=10)
    assert job_of(broken, trained).state is State.CANCELLED
    assert stored_files(broken, trained) == []


@pytest.fixture
def asked_late(broken, trained):
    """Ask for something while a model is being stored, mend the storage, return the job's end."""

    def ask(request):
        carrying = threading.Thread(target=attempt_of(broken, trained).carry_out)
        carrying.start()
        time.sleep(1)
        with broken.database.transaction() as tx:
            request(tx, trained.id, project="default")
        time.sleep(1.5)  # it is heard, or not, before there is a way to store anything
        broken.storage.is_mended = True
        carrying.join(timeout=30)
        return job_of(broken, trained)

    return ask


def last_state(backends, job):
    with backends.database.transaction() as tx:
        found = events.read(tx, job.id, after=0, limit=100)
    return [event.data for event in found if event.type == "state"][-1]


def test_a_model_that_is_to_be_kept_is_stored_to_its_end(broken, trained, asked_late):
    ended = asked_late(partial(jobs.cancel, keep=True))
    assert ended.state is State.CANCELLED
    assert ended.best == {"step": 5, "metrics": {"accuracy": 0.9}}
    assert len(stored_files(broken, trained)) == 3
    said = last_state(broken, trained)
    assert said["reason"] == "cancelled by request; its model is kept"
    assert said["receipt"]["process_gone"]


def test_pause_is_heard_while_the_model_is_being_stored_and_loses_nothing(
    broken, trained, asked_late
):
    assert asked_late(jobs.pause).state is State.PAUSED
    assert stored_files(broken, trained) == []
    with broken.database.transaction() as tx:
        jobs.resume(tx, trained.id, project="default")
    with broken.database.transaction() as tx:
        again = attempts.claim(tx, worker="w2", lease_seconds=3.0)
    attempt_of(broken, again).carry_out()
    assert job_of(broken, again).state is State.SUCCEEDED


@pytest.mark.parametrize(
    ("request_late", "left"),
    [
        (partial(jobs.cancel, project="default"), (State.CANCELLED, 0)),
        (
            lambda tx, job_id: jobs.cancel(tx, job_id, project="default", keep=True),
            (State.CANCELLED, 3),
        ),
        (partial(jobs.pause, project="default"), (State.SUCCEEDED, 3)),
    ],
    ids=["cancel", "keep", "pause"],
)
def test_a_request_between_the_end_of_the_process_and_of_the_job_is_obeyed(
    backends, trained, monkeypatch, request_late, left
):
    """What the supervisor could not hear of any more is found in the row."""
    original = Attempt._end

    def ask_and_end(self, *args):
        monkeypatch.setattr(Attempt, "_end", original)
        with backends.database.transaction() as tx:
            request_late(tx, trained.id)
        return original(self, *args)

    monkeypatch.setattr(Attempt, "_end", ask_and_end)
    attempt_of(backends, trained).carry_out()
    files = stored_files(backends, trained)
    assert (job_of(backends, trained).state, len(files)) == left
    assert all(b"".join(backends.storage.read(f.key, start=0, end=f.size_bytes)) for f in files)
    left_there = list(Path(backends.settings.home / "storage").rglob("*.safetensors"))
    assert len(left_there) == bool(files)


def test_an_error_worth_another_try_leaves_a_job_paused_that_was_to_pause(backends, claim):
    job = claim()
    with backends.database.transaction() as tx:
        jobs.pause(tx, job.id, project="default")
    runs_of(backends).parent.mkdir(parents=True, exist_ok=True)
    runs_of(backends).write_text("a file where the runs should be")
    attempt_of(backends, job).carry_out()
    left = job_of(backends, job)
    assert (left.state, left.error) == (State.PAUSED, None)
    assert last_state(backends, job)["reason"] == "service_unavailable"


def test_drain_is_heard_while_the_model_is_being_stored_and_loses_nothing(broken, trained):
    attempt_of(broken, trained, is_draining=lambda: True).carry_out()
    waiting = job_of(broken, trained)
    assert waiting.state is State.QUEUED
    assert waiting.max_attempts == trained.max_attempts + 1
    broken.storage.is_mended = True
    with broken.database.transaction() as tx:
        again = attempts.claim(tx, worker="w2", lease_seconds=3.0)
    attempt_of(broken, again).carry_out()
    assert job_of(broken, again).state is State.SUCCEEDED


def test_commit_whose_answer_is_lost_keeps_the_model(backends, trained):
    """The server commits; the worker is told that the connection broke."""
    is_armed = threading.Event()
    is_armed.set()

    @event.listens_for(backends.engine, "commit")
    def lose_the_answer(connection):
        row = connection.connection.driver_connection.execute(
            "SELECT state FROM jobs WHERE id = %s", [trained.id]
        ).fetchone()
        if is_armed.is_set() and row[0] == "succeeded":
            is_armed.clear()
            raw = connection.connection.driver_connection
            raw.commit()
            raw.close()

    attempt_of(backends, trained).carry_out()
    event.remove(backends.engine, "commit", lose_the_answer)
    assert not is_armed.is_set()
    assert job_of(backends, trained).state is State.SUCCEEDED
    files = stored_files(backends, trained)
    assert len(files) == 3
    for file in files:
        assert b"".join(backends.storage.read(file.key, start=0, end=file.size_bytes))


def test_overtaken_attempt_deletes_its_files_and_nobody_elses(backends, trained):
    attempt = attempt_of(backends, trained)
    with backends.database.transaction() as tx:
        tx.connection.execute(table.update().values(attempt=table.c.attempt + 1))
    attempt.carry_out()
    assert job_of(backends, trained).state is State.RUNNING  # the other attempt's
    assert not list(Path(backends.settings.home / "storage").rglob("model.safetensors"))


def test_worker_whose_disk_fails_hands_the_job_on_and_stops_claiming(backends, claim):
    job = claim()
    runs_of(backends).parent.mkdir(parents=True, exist_ok=True)
    runs_of(backends).write_text("a file where the runs should be")
    assert not attempt_of(backends, job).carry_out()
    waiting = job_of(backends, job)
    assert waiting.state is State.QUEUED
    with backends.database.transaction() as tx:
        assert attempts.of_job(tx, job.id)[0].reason == "service_unavailable"
        assert attempts.claim(tx, worker="w", lease_seconds=3) is None  # not at once
        found = events.read(tx, job.id, after=0, limit=100)
    assert [e.data["code"] for e in found if e.type == "error"] == ["service_unavailable"]


def test_pause_before_the_next_try_does_not_grow_by_attempts_that_do_not_count(backends, claim):
    job = claim()
    runs_of(backends).parent.mkdir(parents=True, exist_ok=True)
    runs_of(backends).write_text("a file where the runs should be")
    num_drained = 40
    with backends.database.transaction() as tx:
        tx.connection.execute(
            table.update().values(
                attempt=job.attempt + num_drained, max_attempts=job.max_attempts + num_drained
            )
        )
        tx.connection.execute(text("UPDATE attempts SET number = number + :n"), {"n": num_drained})
        drained = jobs.get_any(tx, job.id)
    attempt_of(backends, drained).carry_out()
    waiting = job_of(backends, job)
    assert waiting.state is State.QUEUED
    pause = (waiting.queued_at - waiting.updated_at).total_seconds()
    assert pause == pytest.approx(backends.settings.retry_seconds, abs=2)


def test_spare_that_cannot_start_does_no_harm(backends, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError(errno.EAGAIN, "no more processes")

    monkeypatch.setattr("worker.spare.TrainingProcess", refuse)
    spare = Spare(backends.settings.model_copy(update={"warm_spare": True}))
    spare.refill()
    with pytest.raises(OSError, match="no more processes"):
        spare.take()


def test_lease_that_ended_well_raises_no_alarm(backends, claim, caplog):
    job = claim()
    lost = threading.Event()
    with Lease(backends.database, job, seconds=1.0, on_loss=lost.set) as lease:
        with backends.database.transaction() as tx:
            attempts.end(tx, job.id, State.SUCCEEDED, attempt=job.attempt, reason="")
        lease.let_go()
        time.sleep(1.5)
    assert not lost.is_set()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_lease_is_given_up_before_it_ends_while_the_database_hangs(backends, claim):
    job = claim()
    lost = threading.Event()
    began = time.monotonic()
    with (
        backends.engine.begin() as other,
        Lease(backends.database, job, seconds=3.0, on_loss=lost.set) as lease,
    ):
        other.execute(text("SELECT 1 FROM jobs FOR UPDATE"))  # every renewal waits for this
        assert lost.wait(timeout=3.0)
        assert time.monotonic() - began < 3.0
        with pytest.raises(LeaseLost):
            lease.check()
        other.rollback()


def test_log_lines_survive_an_outage_of_the_database(backends, claim, tmp_path, monkeypatch):
    pump = Pump(backends.database, claim(), RunDirectory(tmp_path))
    pump.run.log.write_text("".join(f"line {n}\n" for n in range(200)))
    original = events.append

    def fail(*_args, **_kwargs):
        raise ConnectionError

    monkeypatch.setattr(events, "append", fail)
    for _ in range(MAX_LOG_LINES // 200 + 5):
        with pytest.raises(ConnectionError):
            pump.turn()
    monkeypatch.setattr(events, "append", original)
    assert pump.turn() == 200


class Losing:
    """A database whose answer to a COMMIT is lost, or the COMMIT itself."""

    def __init__(self, database, *, is_kept):
        self.database = database
        self.is_kept = is_kept
        self.num_left = 1

    @contextmanager
    def transaction(self):
        with self.database.transaction() as tx:
            yield tx
            if self.num_left and not self.is_kept:
                self.num_left -= 1
                raise ConnectionError
        if self.num_left:
            self.num_left -= 1
            raise ConnectionError


@pytest.mark.parametrize("is_kept", [True, False])
def test_events_are_kept_once_if_the_answer_to_a_commit_is_lost(backends, claim, tmp_path, is_kept):
    job = claim()
    pump = Pump(Losing(backends.database, is_kept=is_kept), job, RunDirectory(tmp_path))
    pump.run.log.write_text("one\ntwo\n")
    with pytest.raises(ConnectionError):
        pump.turn()
    with pump.run.log.open("a") as log:
        log.write("three\n")
    assert pump.turn() == (1 if is_kept else 3)
    with backends.database.transaction() as tx:
        found = [e.data["message"] for e in events.read(tx, job.id, after=2, limit=9)]
    assert found == ["one", "two", "three"]


def test_log_is_capped_and_says_so(backends, claim, tmp_path):
    job = claim()
    pump = Pump(backends.database, job, RunDirectory(tmp_path))
    pump.run.log.write_text("flood\n" * (MAX_LOG_LINES + 500))
    pump.drain()
    with backends.database.transaction() as tx:
        logs = [
            e for e in events.read(tx, job.id, after=0, limit=10 * MAX_LOG_LINES) if e.type == "log"
        ]
    assert len(logs) == MAX_LOG_LINES + 1
    assert "the rest is not kept" in logs[-1].data["message"]


def test_progress_bar_in_the_log_is_one_line_and_torn_events_are_passed_over(
    backends, claim, tmp_path
):
    job = claim()
    pump = Pump(backends.database, job, RunDirectory(tmp_path))
    pump.run.log.write_bytes(b"0%\r10%\r\x1b[2K100%\r\nplain \xff\n\n")
    pump.run.events.write_text(
        '{"type": "log", "at": "2026-01-01T00:00:00+00:00", "data": {"message": "whole"}}\n'
        '{"type": "log", "at": "2026-01-01T00:0'
    )
    pump.drain()
    with backends.database.transaction() as tx:
        found = [e.data["message"] for e in events.read(tx, job.id, after=2, limit=9)]
    assert found == ["100%", "plain \ufffd", "whole"]


def test_runs_that_ended_elsewhere_are_tidied_and_others_left(backends, submit):
    ended, waiting = submit(), submit()
    for job in (ended, waiting):
        (runs_of(backends) / job.id / "attempt-1" / "checkpoints").mkdir(parents=True)
    unknown = runs_of(backends) / "job_of_another_database" / "attempt-1" / "checkpoints"
    unknown.mkdir(parents=True)
    with backends.database.transaction() as tx:
        jobs.cancel(tx, ended.id, project="default")
    tidy_finished(backends)
    assert not (runs_of(backends) / ended.id / "attempt-1" / "checkpoints").exists()
    assert (runs_of(backends) / waiting.id / "attempt-1" / "checkpoints").exists()
    assert unknown.exists()


def checkpoint_of(backends, job, *, attempt, step):
    """A sealed checkpoint on disk, and a model beside it."""
    run = RunDirectory(runs_of(backends) / job.id / f"attempt-{attempt}")
    path = run.checkpoints / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"x")
    seal(path)
    run.model.mkdir(exist_ok=True)
    run.log.write_text("the log")
    return path


def set_state(backends, job, state, *, days_ago=0.0):
    values = {"state": state, "finished_at": datetime.now(UTC) - timedelta(days=days_ago)}
    with backends.database.transaction() as tx:
        tx.connection.execute(table.update().where(table.c.id == job.id).values(**values))


def test_failed_job_keeps_its_newest_whole_checkpoint_for_some_days(backends, submit):
    job = submit()
    older, newer = (checkpoint_of(backends, job, attempt=2, step=step) for step in (9, 10))
    cut = newer.with_name("checkpoint-11")  # without a manifest
    cut.mkdir()
    set_state(backends, job, State.FAILED, days_ago=6.9)
    tidy_finished(backends)
    assert [path.name for path in newer.parent.iterdir()] == [newer.name]
    assert verified_manifest(newer) is not None
    assert not older.exists()
    assert not RunDirectory(newer.parents[1]).model.exists()
    set_state(backends, job, State.FAILED, days_ago=7.1)
    tidy_finished(backends)
    assert not newer.parent.exists()
    assert RunDirectory(newer.parents[1]).log.read_text() == "the log"


def test_cancelled_job_keeps_no_checkpoint(backends, submit):
    job = submit()
    checkpoint = checkpoint_of(backends, job, attempt=1, step=5)
    set_state(backends, job, State.CANCELLED)
    tidy_finished(backends)
    assert not checkpoint.exists()


def test_tidying_a_run_that_was_never_made_is_no_error(tmp_path):
    for state in (State.FAILED, State.SUCCEEDED):
        run = RunDirectory(tmp_path / "nothing" / "attempt-1")
        tidy(run, state=state, is_keeping_checkpoint=True)
