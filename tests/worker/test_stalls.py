"""Training processes that live and get no further, and some that print too much: real processes.

What trains is a stand-in that speaks the protocol and imports no torch.
"""

import functools
import resource
import sys
import time
from pathlib import Path

import pytest

from jobs.states import State
from jobs.store import attempts, events, jobs
from tests.worker import stub_trainer
from trainer_core.run_directory import RunDirectory
from worker.attempt import Attempt
from worker.inputs import runs_of
from worker.logs import MAX_LOG_BYTES
from worker.process import TrainingProcess
from worker.pump import MAX_LOG_LINES
from worker.spare import Spare

pytestmark = pytest.mark.slow

STALL_SECONDS = 2


@pytest.fixture
def settings(settings, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    changes = {
        "lease_seconds": 10.0,
        "warm_spare": False,
        "stall_seconds": 3600.0,
        "cancel_grace_seconds": 1.0,
    }
    return settings.model_copy(update=changes)


@pytest.fixture
def carry_out(backends, submit, monkeypatch):
    """Carry out an attempt whose process does as it is told; the job, its events, its run."""

    def carry_out(mode, *, num_attempts=1, **resources):
        command = [sys.executable, "-m", stub_trainer.__name__, mode]
        start = functools.partial(TrainingProcess, command=command)
        monkeypatch.setattr("worker.spare.TrainingProcess", start)
        job = submit(resources=resources)
        for number in range(num_attempts):
            with backends.database.transaction() as tx:
                tx.connection.exec_driver_sql("UPDATE jobs SET queued_at = now()")
            with backends.database.transaction() as tx:
                claimed = attempts.claim(tx, worker="w", lease_seconds=10.0)
            assert claimed.attempt == number + 1
            assert Attempt(backends, claimed, Spare(backends.settings), "cpu", never).carry_out()
        run = RunDirectory(runs_of(backends) / job.id / f"attempt-{num_attempts}")
        with backends.database.transaction() as tx:
            found = (
                jobs.get(tx, job.id, project="default"),
                events.read(tx, job.id, after=0, limit=100_000),
            )
        return *found, run

    return carry_out


def never():
    return False


def errors_of(found):
    return [event.data for event in found if event.type == "error"]


def logs_of(found):
    return [event.data["message"] for event in found if event.type == "log"]


def test_hang_in_a_step_is_ended_with_the_stacks_of_all_threads(carry_out):
    began = time.monotonic()
    job, found, run = carry_out("hang", max_stall_seconds=STALL_SECONDS)
    assert time.monotonic() - began < STALL_SECONDS + 10
    assert job.state is State.QUEUED  # again, from its checkpoint
    (error,) = errors_of(found)
    assert (error["code"], error["whose"], error["retryable"]) == ("stalled", "system", True)
    stacks = "\n".join(error["detail"]["last_lines"])
    assert "in sleep_for_ever" in stacks
    assert "in hang_in_a_step" in stacks
    assert "in sleep_in_a_thread" in stacks
    assert "in sleep_in_a_thread" in "\n".join(logs_of(found))
    assert "in sleep_in_a_thread" in run.log.read_text()


def test_hang_of_a_data_loader_shows_where_its_worker_is(carry_out):
    _, found, _ = carry_out("loader", max_stall_seconds=STALL_SECONDS)
    (error,) = errors_of(found)
    lines = error["detail"]["last_lines"]
    assert any("in wait_for_a_loader" in line for line in lines)
    assert any("in load_rows" in line for line in lines)


def test_stalled_job_fails_at_the_cap_and_keeps_the_reason(carry_out):
    job, found, _ = carry_out("hang", num_attempts=3, max_stall_seconds=1)
    assert (job.state, job.error["code"]) == (State.FAILED, "stalled")
    assert len(errors_of(found)) == 3


def test_slow_process_that_gets_further_is_left_alone(carry_out):
    _, found, _ = carry_out("slow", max_stall_seconds=STALL_SECONDS)
    assert [error["code"] for error in errors_of(found)] != ["stalled"]


def test_what_a_process_prints_is_no_sign_of_getting_further(carry_out):
    _, found, _ = carry_out("chatter", max_stall_seconds=STALL_SECONDS)
    assert [error["code"] for error in errors_of(found)] == ["stalled"]


def test_limit_is_the_settings_where_the_job_has_none(backends, carry_out, monkeypatch):
    monkeypatch.setitem(backends.settings.__dict__, "stall_seconds", 1.0)
    _, found, _ = carry_out("hang")
    (error,) = errors_of(found)
    assert error["detail"]["stall_seconds"] == 1.0


def test_crash_in_native_code_leaves_its_stack(carry_out):
    _, found, _ = carry_out("crash")
    (error,) = errors_of(found)
    assert error["code"] == "process_died"
    assert "SIGSEGV" in error["message"]
    assert any("in main" in line for line in error["detail"]["last_lines"])


@pytest.mark.parametrize("mode", ["bytes", "lines"])
def test_log_flood_is_cut_on_disk_and_in_the_database_and_says_so(carry_out, mode):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _, found, run = carry_out(mode)
    grown_bytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown_bytes < 50 << 20
    assert run.log.stat().st_size <= MAX_LOG_BYTES
    content = run.log.read_bytes()
    assert b"bytes of the log were cut out here]\n" in content
    assert content.endswith(b"\nthe last line\n")
    shown = logs_of(found)
    assert len(shown) <= MAX_LOG_LINES + 1
    if mode == "lines":
        assert shown[0] == "the same again and again \ufffd"
        assert "the rest is not kept" in shown[-1]
    else:
        assert "the last line" in shown
        assert any("were cut out here" in line for line in shown)
    assert not any(ord(letter) < 32 for line in shown for letter in line if letter != "\t")
