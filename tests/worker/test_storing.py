"""Checkpoints on their way to the storage and back, under faults; no training."""

import shutil
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from jobs.retention import expire_checkpoints, remove_checkpoints
from jobs.states import State
from jobs.storage import Storage
from jobs.store import attempts, checkpoints, events, jobs
from jobs.tables import jobs as table
from trainer_core.errors import (
    CheckpointNotFound,
    JobNotFound,
    NoUsableCheckpoint,
    ServiceUnavailable,
)
from trainer_core.events import EventType
from trainer_core.run_directory import RunDirectory, checkpoints_in, seal, write_json
from worker.inputs import directory_of
from worker.pump import Pump
from worker.restoring import restore
from worker.storing import CheckpointStore

pytestmark = pytest.mark.slow


@pytest.fixture
def job(backends, submit):
    job = submit()
    assert claimed(backends).id == job.id
    return now(backends, job)


@pytest.fixture
def run(backends, job):
    run = RunDirectory(directory_of(backends, job))
    run.checkpoints.mkdir(parents=True)
    return run


def claimed(backends, *, lease_seconds=30.0):
    with backends.database.transaction() as tx:
        return attempts.claim(tx, worker="w", lease_seconds=lease_seconds)


def now(backends, job):
    with backends.database.transaction() as tx:
        return jobs.get_any(tx, job.id)


def requeue(backends, job):
    """Let the next attempt begin, as after the loss of a worker."""
    with backends.database.transaction() as tx:
        attempts.end(tx, job.id, State.QUEUED, attempt=job.attempt, reason="lost")
    return claimed(backends)


def save(run, step, *, size=1000, best=None):
    """Save a checkpoint as training does: whole or absent."""
    path = run.checkpoints / f"checkpoint-{step}"
    partial = run.checkpoints / f".partial-{step}"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(bytes([step]) * size)
    (partial / "optimizer.pt").write_bytes(bytes([step + 1]) * size)
    (partial / "config.json").write_text("{}")
    write_json(partial / "trainer_state.json", {"best_global_step": best})
    seal(partial)
    partial.rename(path)
    return path


@contextmanager
def storing(backends, job, run, *, told=()):
    pump = Pump(backends.database, job, run)
    for step, data in dict(told).items():
        pump._saved[step] = data
    with CheckpointStore(backends, job, run, teller=pump) as store:
        yield store


def store_now(backends, job, run, *, told=()):
    with storing(backends, job, run, told=told) as store:
        store.finish(seconds=20, is_wanted=lambda: True)


def stored(backends, job):
    with backends.database.transaction() as tx:
        return checkpoints.of_any(tx, job.id)


def steps(backends, job):
    return [one.step for one in stored(backends, job)]


def said(backends, job, kind):
    with backends.database.transaction() as tx:
        found = events.read(tx, job.id, after=0, limit=1000)
    return [event.data for event in found if event.type == kind]


def with_storage(backends, storage):
    return replace(backends, storage=storage)


def until(condition, *, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def restored(backends, job, run, *, storage=None):
    """Restore into a folder of another machine."""
    with backends.database.transaction() as tx:
        found = checkpoints.of_any(tx, job.id)
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    pump = Pump(backends.database, job, run)
    storage = storage or backends.storage
    restore(storage, run, found, check=lambda: None, teller=pump)


def test_saved_checkpoints_are_stored_with_their_figures_and_take_no_room_on_the_same_disk(
    backends, job, run
):
    save(run, 5)
    newest = save(run, 10)
    store_now(backends, job, run, told={10: {"metrics": {"loss": 0.5}, "is_best": True}})
    latest, first = stored(backends, job)
    assert (latest.step, latest.metrics, latest.is_best) == (10, {"loss": 0.5}, True)
    assert (first.step, first.metrics, first.is_best) == (5, {}, False)
    assert latest.size_bytes == sum(path.stat().st_size for path in newest.iterdir())
    assert latest.keys[-1].endswith("manifest.json")
    for file, key in zip(latest.files, latest.keys, strict=True):
        with backends.storage.local(key) as path:
            assert path.samefile(newest / file["path"])
    assert not list(run.storing.glob("*"))


def test_checkpoint_is_stored_while_training_goes_on(backends, job, run):
    with storing(backends, job, run, told={3: {}}):
        save(run, 3)
        until(lambda: steps(backends, job) == [3])


def test_newest_ones_and_the_best_stay_in_the_storage(backends, job, run):
    told = {step: {"is_best": step == 2} for step in range(1, 7)}
    with storing(backends, job, run, told=told):
        for step in range(1, 7):
            path = save(run, step)
            until(lambda step=step: step in steps(backends, job))
            if step != 2:
                shutil.rmtree(path)
    assert job.spec["checkpoints"]["keep"] == 2
    assert steps(backends, job) == [6, 5, 2]
    left = {key.split("/")[3] for key in backends.storage.keys(f"jobs/{job.id}/")}
    assert left == {"checkpoint-6", "checkpoint-5", "checkpoint-2"}


class Faulty(Storage):
    """A storage that does something of the test's before it keeps a file."""

    def __init__(self, url, before):
        super().__init__(url)
        self.before = before

    def keep(self, key, source, *, check):
        self.before(key)
        return super().keep(key, source, check=check)


def test_storage_that_fails_is_told_once_and_tried_again(backends, job, run, monkeypatch):
    monkeypatch.setattr("worker.storing._RETRY_SECONDS", 0.05)
    num_tries = []

    def fail(key):
        num_tries.append(key)
        if len(num_tries) < 4:
            raise ServiceUnavailable("the bucket is away", hint="Wait.")

    save(run, 4)
    store_now(with_storage(backends, Faulty(backends.settings.storage, fail)), job, run)
    assert steps(backends, job) == [4]
    codes = [warning["code"] for warning in said(backends, job, EventType.WARNING)]
    assert codes == ["checkpoint_not_stored"]


def test_checkpoint_that_the_process_removes_meanwhile_is_stored_whole(backends, job, run):
    path = save(run, 4)
    faulty = Faulty(backends.settings.storage, lambda _: shutil.rmtree(path, ignore_errors=True))
    store_now(with_storage(backends, faulty), job, run)
    assert steps(backends, job) == [4]
    other = RunDirectory(run.path.parent / "attempt-9")
    restored(backends, job, other)
    assert [one.name for one in checkpoints_in(other.checkpoints)] == ["checkpoint-4"]


def test_damaged_checkpoint_is_not_stored(backends, job, run):
    path = save(run, 4)
    (path / "optimizer.pt").write_bytes(b"other")
    store_now(backends, job, run)
    assert steps(backends, job) == []
    (warning,) = said(backends, job, EventType.WARNING)
    assert warning["code"] == "checkpoint_damaged"
    assert "optimizer.pt" in warning["message"]


@pytest.mark.parametrize("at", range(5))
def test_overtaken_attempt_stores_nothing_and_leaves_nothing(backends, job, run, at):
    num_kept = []

    def overtake(key):
        num_kept.append(key)
        if len(num_kept) == at + 1:
            requeue(backends, job)
            remove_checkpoints(backends)

    save(run, 4)
    store_now(with_storage(backends, Faulty(backends.settings.storage, overtake)), job, run)
    assert len(num_kept) == 5
    assert stored(backends, job) == []
    assert backends.storage.keys(f"jobs/{job.id}/") == []


@pytest.mark.parametrize("at", range(5))
def test_worker_that_dies_while_storing_leaves_nothing_to_be_seen(backends, job, run, at):
    """C12: at every file, a folder's unit of storing."""
    num_kept = []

    def die(key):
        num_kept.append(key)
        if len(num_kept) > at:
            raise RuntimeError("the thread ends here, and cleans nothing up")

    save(run, 4)
    with storing(with_storage(backends, Faulty(backends.settings.storage, die)), job, run) as store:
        store.finish(seconds=20, is_wanted=lambda: True)
    assert stored(backends, job) == []
    assert len(backends.storage.keys(f"jobs/{job.id}/")) == at
    again = requeue(backends, job)
    expire_checkpoints(backends, days=7)
    assert backends.storage.keys(f"jobs/{job.id}/") == []
    store_now(backends, again, run)
    assert steps(backends, job) == [4]


def test_storing_ends_with_its_attempt_though_the_storage_hangs(backends, job, run):
    hanging = threading.Event()
    faulty = Faulty(backends.settings.storage, lambda _: hanging.wait(20))
    save(run, 4)
    with storing(with_storage(backends, faulty), job, run) as store:
        began = time.monotonic()
        store.finish(seconds=0.3, is_wanted=lambda: True)
        assert time.monotonic() - began < 5
        timer = threading.Timer(0.3, hanging.set)
        timer.start()
    assert stored(backends, job) == []
    assert backends.storage.keys(f"jobs/{job.id}/") == []


def test_another_machine_gets_the_newest_one_and_the_best(backends, job, run):
    told = {2: {"is_best": True}}
    for step in (2, 4, 6):
        save(run, step, best=2)
    store_now(backends, job, run, told=told)
    shutil.rmtree(run.path)
    other = RunDirectory(run.path.parent / "attempt-9")
    restored(backends, job, other)
    assert [one.name for one in checkpoints_in(other.checkpoints)] == [
        "checkpoint-2",
        "checkpoint-6",
    ]
    assert (other.checkpoints / "checkpoint-6" / "model.safetensors").read_bytes() == b"\x06" * 1000


def test_nothing_is_fetched_where_one_as_new_is_here(backends, job, run):
    save(run, 4)
    store_now(backends, job, run)
    save(run, 6)
    restored(backends, job, run)
    assert said(backends, job, EventType.LOG) == []


def test_stored_one_takes_the_place_of_a_damaged_one_of_this_machine(backends, job, run):
    path = save(run, 4)
    store_now(backends, job, run)
    (path / "optimizer.pt").unlink()
    (path / "optimizer.pt").write_bytes(b"other")
    restored(backends, job, run)
    assert (path / "optimizer.pt").read_bytes() == b"\x05" * 1000


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "manifest.json"])
@pytest.mark.parametrize("damage", ["empty", "half", "flip", "gone"])
def test_damaged_one_in_the_storage_is_passed_over_and_said_so(backends, job, run, name, damage):
    save(run, 4)
    save(run, 6)
    store_now(backends, job, run)
    key = next(key for key in stored(backends, job)[0].keys if key.endswith(name))
    shutil.rmtree(run.path)
    harm(backends.storage, key, damage)
    other = RunDirectory(run.path.parent / "attempt-9")
    restored(backends, job, other)
    assert [one.name for one in checkpoints_in(other.checkpoints)] == ["checkpoint-4"]
    (warning,) = said(backends, job, EventType.WARNING)
    assert warning["code"] == "stored_checkpoint_damaged"
    assert "checkpoint-6" in warning["message"]
    assert steps(backends, job) == [4]


def harm(storage, key, damage):
    if damage == "gone":
        storage.delete(key)
        return
    with storage.local(key) as path:
        content = bytearray(path.read_bytes())
    storage.delete(key)  # it may be a second name of the run's own file
    content[len(content) // 2] ^= 1
    kept = {"empty": b"", "half": content[: len(content) // 2], "flip": content}[damage]
    storage.put(key, [bytes(kept)])


def test_job_does_not_begin_anew_where_all_stored_ones_are_damaged(backends, job, run):
    save(run, 4)
    store_now(backends, job, run)
    shutil.rmtree(run.path)
    backends.storage.delete(*backends.storage.keys(f"jobs/{job.id}/"))
    other = RunDirectory(run.path.parent / "attempt-9")
    with pytest.raises(NoUsableCheckpoint, match="damaged"):
        restored(backends, job, other)


def test_storage_that_is_away_is_waited_for(backends, job, run, monkeypatch):
    monkeypatch.setattr("worker.patience._RETRY_SECONDS", (0,))
    save(run, 4)
    store_now(backends, job, run)
    shutil.rmtree(run.path)
    other = RunDirectory(run.path.parent / "attempt-9")
    restored(backends, job, other, storage=Away(backends.settings.storage, times=2))
    assert [one.name for one in checkpoints_in(other.checkpoints)] == ["checkpoint-4"]


class Away(Storage):
    """A storage that does not answer at first."""

    def __init__(self, url, *, times):
        super().__init__(url)
        self.times = times

    def fetch(self, key, target, *, check=None):
        self.times -= 1
        if self.times >= 0:
            raise ServiceUnavailable("the bucket is away", hint="Wait.")
        super().fetch(key, target, check=check)


def test_checkpoints_of_an_ended_job_go_after_their_time_unless_one_is_to_be_started_from(
    backends, job, run, submit
):
    for step in (4, 6):
        save(run, step)
    store_now(backends, job, run)
    with backends.database.transaction() as tx:
        attempts.end(tx, job.id, State.FAILED, attempt=1, reason="diverged")
    wanting = submit(model=f"job:{job.id}/checkpoint-4")
    expire_checkpoints(backends, days=1)
    assert steps(backends, job) == [6, 4]
    with backends.database.transaction() as tx:
        tx.connection.execute(
            table.update()
            .where(table.c.id == job.id)
            .values(finished_at=table.c.finished_at - timedelta(days=1))
        )
    expire_checkpoints(backends, days=1)
    assert steps(backends, job) == [4]
    with backends.database.transaction() as tx:
        jobs.cancel(tx, wanting.id, project="default")
    expire_checkpoints(backends, days=1)
    assert steps(backends, job) == []
    assert backends.storage.keys(f"jobs/{job.id}/") == []


def test_checkpoints_of_another_project_are_not_there(backends, job, run):
    save(run, 4)
    store_now(backends, job, run)
    with backends.database.transaction() as tx, pytest.raises(CheckpointNotFound):
        checkpoints.get(tx, job.id, 5, project="default")
    with backends.database.transaction() as tx, pytest.raises(CheckpointNotFound):
        checkpoints.get(tx, job.id, 2**40, project="default")
    with backends.database.transaction() as tx:
        assert checkpoints.get(tx, job.id, 4, project="default").step == 4
        tx.connection.execute(table.update().values(project="other"))
    with backends.database.transaction() as tx, pytest.raises(JobNotFound):
        checkpoints.of_job(tx, job.id, project="default")
