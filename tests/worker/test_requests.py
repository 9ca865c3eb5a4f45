"""Pause, resume, cancel with keep: real workers and training processes, and their receipts."""

import hashlib
import os
import signal
import time
from pathlib import Path

import pytest

from tests.worker.test_road import base, has_stepped, spec_of

pytestmark = pytest.mark.slow

__all__ = ["base"]


@pytest.fixture(scope="module")
def road(forked_road):
    return forked_road


STEPS = 108  # of twelve epochs


@pytest.fixture(scope="module")
def worker(road, base):
    road.start_worker()
    yield
    road.stop_workers()


def ask(road, job_id, action, *, status=200, **body):
    answer = road.client.post(f"/jobs/{job_id}/{action}", **({"json": body} if body else {}))
    assert answer.status_code == status, answer.text
    return answer.json()


def is_paused(job):
    return job["state"] == "paused"


def at_step(step):
    return lambda job: bool(job["progress"] and job["progress"]["step"] >= step)


def last_state(road, job_id):
    return [e["data"] for e in road.events(job_id) if e["type"] == "state"][-1]


def weights_of(road, job_id):
    content = road.client.get(f"/jobs/{job_id}/model/model.safetensors").content
    return hashlib.sha256(content).hexdigest()


def slow_spec(dataset, **changes):
    """A run of some seconds that is evaluated and saved at its end only."""
    return spec_of(dataset, epochs=400, evaluation={"strategy": "no"}, **changes)


def assert_stopped(receipt):
    assert receipt["process_gone"]
    assert receipt["memory_before_bytes"] > 50_000_000  # torch is in it
    assert receipt["memory_after_bytes"] == 0
    assert 0 < receipt["seconds_to_stop"] < 60


def test_a_paused_run_frees_its_process_goes_on_at_its_step_and_ends_with_the_same_weights(
    road, base, worker
):
    whole = road.submit(spec_of(base, epochs=12))
    halted = road.submit(spec_of(base, epochs=12))
    road.wait_for_end(whole)
    road.wait(halted, has_stepped)
    pid = road.run_pid(halted)
    assert ask(road, halted, "pause")["state"] == "pausing"
    paused = road.wait(halted, is_paused)
    assert not Path(f"/proc/{pid}").exists()
    (first,) = paused["attempts"]
    assert first["reason"] == "paused by request"
    assert 1 <= first["last_step"] < STEPS
    assert paused["max_attempts"] == road.settings.max_attempts + 1  # it does not count
    receipt = last_state(road, halted)["receipt"]
    assert_stopped(receipt)
    assert receipt["checkpoint"] == f"checkpoint-{first['last_step']}"
    assert (receipt["exit_code"], receipt["signal"]) == (75, None)
    other = road.submit(spec_of(base, epochs=1))  # the slot is free
    assert road.wait_for_end(other)["state"] == "succeeded"
    assert ask(road, halted, "resume")["state"] == "queued"
    ended = road.wait_for_end(halted)
    assert ended["state"] == "succeeded"
    assert ended["attempts"][1]["first_step"] == first["last_step"] + 1
    assert weights_of(road, halted) == weights_of(road, whole)
    assert ended["best"] == road.job(whole)["best"]


def test_cancel_with_keep_leaves_a_model_that_loads(road, base, worker, tmp_path):
    job_id = road.submit(slow_spec(base))
    road.wait(job_id, at_step(40))
    assert ask(road, job_id, "cancel", keep=True)["state"] == "cancelling"
    ended = road.wait_for_end(job_id)
    assert ended["state"] == "cancelled"
    step = ended["best"]["step"] or ended["progress"]["step"]
    assert 40 <= step < 3600
    assert ended["best"]["metrics"]["accuracy"] > 0.9
    assert ended["metrics"]["eval"]["accuracy"] > 0.9
    assert ended["error"] is None
    said = last_state(road, job_id)
    assert said["reason"] == "cancelled by request; its model is kept"
    assert_stopped(said["receipt"])
    for file in ended["artifacts"]:
        content = road.client.get(f"/jobs/{job_id}/model/{file['path']}").content
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
        path = tmp_path / file["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(tmp_path))
    assert classify("it is a warm red")[0]["label"] == "red"
    assert ask(road, job_id, "cancel")["state"] == "cancelled"


def test_keep_before_any_step_says_that_there_is_nothing(road, base, worker):
    job_id = road.submit(slow_spec(base))
    road.wait(job_id, lambda job: job["state"] == "running")
    ask(road, job_id, "cancel", keep=True)
    ended = road.wait_for_end(job_id)
    if at_step(1)(ended):
        pytest.skip("it took a step before it was asked")
    assert (ended["state"], ended["artifacts"], ended["best"]) == ("cancelled", [], None)
    assert last_state(road, job_id)["reason"] == "cancelled by request; no step was taken to keep"


def test_cancel_at_once_after_keep_is_not_held_up_by_a_process_that_hangs(road, base, worker):
    job_id = road.submit(slow_spec(base))
    road.wait(job_id, has_stepped)
    pid = road.run_pid(job_id)
    os.kill(pid, signal.SIGSTOP)  # it never gets to keep anything
    ask(road, job_id, "cancel", keep=True)
    time.sleep(2)
    assert road.job(job_id)["state"] == "cancelling"
    asked = time.monotonic()
    ask(road, job_id, "cancel")
    ended = road.wait_for_end(job_id)
    assert time.monotonic() - asked < road.settings.cancel_grace_seconds + 4
    assert (ended["state"], ended["artifacts"]) == ("cancelled", [])
    receipt = last_state(road, job_id)["receipt"]
    assert_stopped(receipt)
    assert receipt["signal"] == "SIGKILL"
    assert receipt["seconds_to_stop"] > road.settings.cancel_grace_seconds
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("phase", ["preparing", "loading", "evaluating"])
def test_pause_in_each_phase_leaves_the_job_paused_and_it_can_be_cancelled(
    road, base, worker, phase
):
    job_id = road.submit(spec_of(base, epochs=600))
    job = road.wait(job_id, lambda job: job["phase"] == phase or has_stepped(job))
    ask(road, job_id, "pause")
    paused = road.wait(job_id, is_paused)
    receipt = last_state(road, job_id)["receipt"]
    assert receipt["process_gone"]
    assert (receipt["checkpoint"] is None) == (paused["attempts"][0]["last_step"] is None), job
    assert ask(road, job_id, "pause")["state"] == "paused"
    assert ask(road, job_id, "cancel")["state"] == "cancelled"


def test_a_job_that_waits_is_paused_at_once_and_claimed_once_resumed(road, base, worker):
    running = road.submit(slow_spec(base))
    road.wait(running, has_stepped)
    waiting = road.submit(spec_of(base, epochs=1))
    assert ask(road, waiting, "pause")["state"] == "paused"
    ask(road, running, "cancel")
    road.wait_for_end(running)
    time.sleep(1.5)  # a sweep, and the worker is free
    assert road.job(waiting)["attempts"] == []
    ask(road, waiting, "resume")
    assert road.wait_for_end(waiting)["state"] == "succeeded"
