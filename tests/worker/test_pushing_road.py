"""Jobs that push their models: trained by a real worker, pushed to a Hub on loopback."""

import json
import os
import signal
import time

import pytest

from tests.pushable_hub import HANG, PushableHub
from tests.worker.test_road import base, spec_of

pytestmark = pytest.mark.slow

__all__ = ["base"]

REPO = "me/colours"


@pytest.fixture(scope="module")
def road(forked_road):
    return forked_road


@pytest.fixture
def hub(road, monkeypatch):
    hub = PushableHub()
    with hub.serve() as url:
        monkeypatch.setenv("HF_ENDPOINT", url)  # of the workers that are started
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        road.client.put("/secrets/hf", json={"value": hub.token}).raise_for_status()
        yield hub
        road.stop_workers(signal.SIGKILL)


def submit(road, base, *, adapter=None, **push):
    output = {"push": {"repo": REPO, "secret": "hf", **push}}
    return road.submit(spec_of(base, epochs=2, adapter=adapter, output=output))


def pushed(road, job_id, *, state="pushed"):
    """Return the job once its push has ended."""
    deadline = time.monotonic() + 120
    while (job := road.job(job_id))["pushes"][-1]["state"] == "pending":
        assert time.monotonic() < deadline, job["pushes"]
        time.sleep(0.1)
    assert job["pushes"][-1]["state"] == state, job["pushes"]
    return job


def stored(road, job):
    """Return the files of a job's model that a push takes, as the service has them."""
    left = ("manifest.json", "predictions.jsonl", "tracking/")
    paths = [file["path"] for file in job["artifacts"] if not file["path"].startswith(left)]
    return {path: road.client.get(f"/jobs/{job['id']}/model/{path}").content for path in paths}


def test_model_is_pushed_after_its_job_has_succeeded(road, base, hub):
    road.start_worker()
    job_id = submit(road, base, branch="v1")
    assert road.wait_for_end(job_id)["state"] == "succeeded"
    job = pushed(road, job_id)
    assert hub.files(REPO, "v1") == stored(road, job)
    assert {"model.safetensors", "config.json", "README.md"} <= hub.files(REPO, "v1").keys()
    card = hub.files(REPO, "v1")["README.md"].decode()
    assert "pipeline_tag: text-classification" in card
    assert str(road.settings.home) not in card
    assert hub.token not in "".join(map(str, road.events(job_id)))
    assert hub.token not in (road.settings.home / "logs" / "worker-0.log").read_text()


def test_adapter_is_pushed_alone_and_names_the_model_it_belongs_to(road, base, hub):
    road.start_worker()
    job_id = submit(road, base, adapter={"type": "lora", "output": "adapter"})
    assert road.wait_for_end(job_id)["state"] == "succeeded"
    job = pushed(road, job_id)
    files = hub.files(REPO)
    assert files == stored(road, job)
    assert "model.safetensors" not in files
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "model:encoder"
    assert "library_name: peft" in files["README.md"].decode()


def test_push_that_fails_leaves_the_job_as_it_is_and_is_done_again_without_training(
    road, base, hub
):
    hub.fail("commit", 503)
    road.start_worker()
    job_id = submit(road, base)
    assert road.wait_for_end(job_id)["state"] == "succeeded"
    failed = pushed(road, job_id, state="failed")
    warnings = [event["data"] for event in road.events(job_id) if event["type"] == "warning"]
    assert "push_failed" in [warning["code"] for warning in warnings]
    hub.faults.clear()
    assert road.client.post(f"/jobs/{job_id}/push").status_code == 202
    job = pushed(road, job_id)
    assert hub.files(REPO) == stored(road, job)
    assert (job["state"], job["attempts"]) == ("succeeded", failed["attempts"])


@pytest.mark.parametrize("step", ["put", "commit"])
def test_push_of_a_worker_that_is_killed_is_done_once_by_the_next(road, base, hub, step):
    hub.fail(step, HANG, times=1)
    worker = road.start_worker()
    job_id = submit(road, base)
    hub.wait_for(step, seconds=120)
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    road.start_worker()
    job = pushed(road, job_id)
    assert hub.files(REPO) == stored(road, job)
    assert hub.repositories[REPO].commits == [job["pushes"][0]["commit"]]
    assert job["pushes"][0]["num_tries"] == 2
