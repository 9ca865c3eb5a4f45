"""A job that moves to another machine: two workers with homes of their own, and one storage."""

import hashlib
import signal
import time

import pytest

from tests.training.tiny import COLOURS, save_encoder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(forked_road):
    road = forked_road
    folder = save_encoder(road.settings.model_roots[0] / "encoder")
    answer = road.client.post("/models", json={"name": "encoder", "path": str(folder)})
    assert answer.status_code == 201, answer.text
    words = ["small", "large", "old", "new"]
    rows = [f"it is a {words[n % 4]} {COLOURS[n % 3]},{COLOURS[n % 3]}" for n in range(60)]
    return road.upload("text,colour\n" + "\n".join(rows) + "\n", name="colours.csv")


def spec_of(dataset, **changes):
    return {
        "task": "text-classification",
        "model": "model:encoder",
        "data": {"train": f"dataset:{dataset}", "columns": {"label": "colour"}, "eval": 0.2},
        "training": {"epochs": 60, "learning_rate": 0.01, "batch_size": 6, "seed": 3},
        "checkpoints": {"strategy": "epoch"},
        **changes,
    }


def test_job_whose_machine_is_gone_goes_on_elsewhere_to_the_same_weights(
    forked_road, base, tmp_path
):
    road = forked_road
    first = road.start_worker(home=tmp_path / "first")
    undisturbed = road.submit(spec_of(base))
    assert road.wait_for_end(undisturbed)["state"] == "succeeded"

    job_id = road.submit(spec_of(base))
    road.wait(job_id, lambda job: job["attempt"] and len(listed(road, job_id)) >= 2)
    road.stop_workers(signal.SIGKILL)
    assert first.poll() is not None
    road.start_worker(home=tmp_path / "second")
    ended = road.wait_for_end(job_id)
    assert ended["state"] == "succeeded"
    messages = [e["data"]["message"] for e in road.events(job_id) if e["type"] == "log"]
    fetched = [text for text in messages if text.startswith("fetched checkpoint-")]
    assert fetched
    resumed_at = max(int(text.split()[1].rpartition("-")[2]) for text in fetched)
    assert ended["attempts"][1]["first_step"] == resumed_at + 1
    assert weights(road, job_id) == weights(road, undisturbed)
    assert ended["best"] == road.job(undisturbed)["best"]
    road.stop_workers()


def test_paused_job_goes_on_elsewhere_and_others_start_from_its_checkpoint(
    forked_road, base, tmp_path
):
    road = forked_road
    road.start_worker(home=tmp_path / "first")
    job_id = road.submit(spec_of(base))
    road.wait(job_id, lambda job: job["progress"] and job["progress"]["step"] >= 12)
    assert road.client.post(f"/jobs/{job_id}/pause").status_code == 200
    paused = road.wait(job_id, lambda job: job["state"] == "paused")
    receipt = [e["data"]["receipt"] for e in road.events(job_id) if "receipt" in e["data"]][-1]
    newest = listed(road, job_id)[0]
    assert (receipt["checkpoint"], receipt["checkpoint_stored"]) == (newest["id"], True)
    assert newest["step"] == paused["progress"]["step"]
    road.stop_workers()

    road.start_worker(home=tmp_path / "second")
    training = {"epochs": 1, "learning_rate": 1e-9}
    from_it = road.submit(spec_of(base, model=newest["model"], training=training))
    assert road.wait_for_end(from_it)["state"] == "succeeded"
    assert road.client.post(f"/jobs/{job_id}/resume").status_code == 200
    ended = road.wait_for_end(job_id)
    assert ended["attempts"][1]["first_step"] == newest["step"] + 1
    road.stop_workers()

    last, *_ = after_the_end = listed(road, job_id)
    assert last["step"] == ended["progress"]["max_steps"]
    assert [one["step"] for one in after_the_end if one["is_best"]] == [ended["best"]["step"]]
    assert {"loss", "accuracy"} <= set(last["metrics"])


def listed(road, job_id):
    answer = road.client.get(f"/jobs/{job_id}/checkpoints")
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def weights(road, job_id):
    deadline = time.monotonic() + 10
    while True:
        answer = road.client.get(f"/jobs/{job_id}/model/model.safetensors")
        if answer.status_code == 200:
            return hashlib.sha256(answer.content).hexdigest()
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.1)
