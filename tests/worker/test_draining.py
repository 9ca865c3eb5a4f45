"""SIGTERM to a worker: it saves, hands back and ends, in every phase, however often it is told."""

import os
import signal
import time

import pytest

from tests.worker.test_requests import STEPS, last_state, weights_of
from tests.worker.test_road import base, has_stepped, spec_of

pytestmark = pytest.mark.slow

__all__ = ["base"]


@pytest.fixture(scope="module")
def road(forked_road):
    return forked_road


def drain(road, *, signals=1, is_group=False):
    """Send SIGTERM to the worker, again and again if wanted, and return how long it took to end."""
    (worker,) = road.workers
    asked = time.monotonic()
    for _ in range(signals):
        if is_group:
            os.killpg(worker.pid, signal.SIGTERM)
        else:
            worker.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    worker.wait(120)
    road.workers.clear()
    return time.monotonic() - asked


@pytest.fixture(scope="module")
def whole(road, base):
    """The weights of a run that nobody disturbed."""
    road.start_worker()
    job_id = road.submit(spec_of(base, epochs=12))
    road.wait_for_end(job_id)
    road.stop_workers()
    return weights_of(road, job_id)


@pytest.mark.parametrize(
    ("phase", "how"),
    [
        ("preparing", {}),
        ("loading", {"signals": 2}),
        ("training", {"signals": 4}),
        ("evaluating", {"is_group": True}),
    ],
)
def test_drained_in_any_phase_the_job_goes_on_and_ends_with_the_same_weights(
    road, whole, base, phase, how
):
    road.start_worker()
    job_id = road.submit(spec_of(base, epochs=12))
    road.wait(job_id, lambda job: job["phase"] == phase or has_stepped(job))
    took = drain(road, **how)
    waiting = road.job(job_id)
    assert took < road.settings.drain_grace_seconds
    assert (waiting["state"], waiting["max_attempts"]) == ("queued", 4)  # it does not count
    assert not road.training_pids()
    receipt = last_state(road, job_id)["receipt"]
    assert receipt["process_gone"]
    road.start_worker()
    ended = road.wait_for_end(job_id)
    road.stop_workers()
    assert ended["state"] == "succeeded"
    before, after = ended["attempts"]
    assert after["first_step"] == (before["last_step"] or 0) + 1
    assert after["last_step"] == STEPS
    assert weights_of(road, job_id) == whole
