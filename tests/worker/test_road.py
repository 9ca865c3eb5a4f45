"""A job from its submission to a model that predicts, and every way off that road."""

import io
import json
import os
import signal
import tarfile
import time
from pathlib import Path

import pytest

from tests.training.tiny import COLOURS, save_decoder, save_encoder

pytestmark = pytest.mark.slow

FINAL = ("succeeded", "failed", "cancelled")


def rows_of_colours(count):
    filler = ["small", "large", "old", "new"]
    return "text,colour\n" + "".join(
        f"it is a {filler[n % 4]} {COLOURS[n % 3]},{COLOURS[n % 3]}\n" for n in range(count)
    )


@pytest.fixture(scope="module")
def base(road):
    """Register the tiny models and upload the rows once."""
    encoder = save_encoder(road.settings.model_roots[0] / "encoder")
    decoder = save_decoder(road.settings.model_roots[0] / "decoder")
    for name, folder in (("encoder", encoder), ("decoder", decoder)):
        answer = road.client.post("/models", json={"name": name, "path": str(folder)})
        assert answer.status_code == 201, answer.text
    return road.upload(rows_of_colours(120), name="colours.csv")


def spec_of(dataset, *, epochs=6, **changes):
    training = {"epochs": epochs, "learning_rate": 0.01, "batch_size": 12, "seed": 3}
    return {
        "task": "text-classification",
        "model": "model:encoder",
        "data": {"train": f"dataset:{dataset}", "columns": {"label": "colour"}},
        "training": {**training, **changes.pop("training", {})},
        **changes,
    }


@pytest.fixture
def worker(road, base):
    road.start_worker()
    yield
    road.stop_workers()


def stream(road, job_id, *, after=0, limit=None):
    """Follow a job's events over SSE, as (id, type, data)."""
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
    found, fields = [], {}
    with road.client.stream("GET", f"/jobs/{job_id}/events", headers=headers) as response:
        for line in response.iter_lines():
            if line:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
            elif "data" in fields:
                found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
                fields = {}
                if limit is not None and len(found) == limit:
                    break
    return found


def has_stepped(job):
    return bool(job["progress"] and job["progress"]["step"] >= 1)


def test_two_jobs_run_one_after_the_other_to_models_that_predict(road, base, worker, tmp_path):
    first = road.submit(spec_of(base, labels={"team": "a"}))
    road.wait(first, lambda job: job["state"] == "running")
    second = road.submit(
        {
            "task": "causal-lm",
            "model": "model:decoder",
            "data": {"train": f"dataset:{road.upload(chats(40), name='chats.jsonl')}"},
            "training": {"epochs": 1},
        }
    )
    waiting = road.job(second)
    assert (waiting["state"], waiting["queue_position"]) == ("queued", 1)

    cut = stream(road, first, limit=3)  # watch, drop the stream, go on where it broke off
    rest = stream(road, first, after=cut[-1][0])
    events = cut + rest
    assert [number for number, _, _ in events] == list(range(1, len(events) + 1))
    assert events[-1][1] == "state"
    assert events[-1][2]["data"]["state"] == "succeeded"
    phases = [e["data"]["phase"] for _, kind, e in events if kind == "phase"]
    assert phases[0] == "preparing"
    assert phases[-1] == "publishing"
    assert {"loading", "tokenizing", "training", "evaluating", "saving"} <= set(phases)
    assert {"progress", "metrics", "checkpoint", "log"} <= {kind for _, kind, _ in events}

    job = road.job(first)
    assert job["best"]["metrics"]["accuracy"] > 0.9
    assert job["metrics"]["eval"]["accuracy"] > 0.9
    assert "auto" not in json.dumps(job["resolved"]["spec"])
    assert job["attempts"][0]["last_step"] == job["progress"]["max_steps"] == 54
    assert_soon(lambda: not (road.settings.home / "runs" / first).exists())

    archive = road.client.get(f"/jobs/{first}/model").content
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        # Python 3.11 has filters from 3.11.4 on.
        tar.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))  # noqa: S202
    (folder,) = {path.parent for path in tmp_path.rglob("config.json")}
    for colour in COLOURS:
        assert classify(folder, f"it is a warm {colour}") == colour

    ended = road.wait_for_end(second)
    assert ended["state"] == "succeeded"
    assert ended["best"]["metrics"]["perplexity"] > 1
    assert "generation_config.json" in {file["path"] for file in ended["artifacts"]}
    from_first = road.submit(spec_of(base, epochs=1, model=f"job:{first}"))
    assert road.wait_for_end(from_first)["best"]["metrics"]["accuracy"] > 0.9


def test_cancelled_job_is_gone_within_ten_seconds_and_the_next_one_runs(road, base, worker):
    job_id = road.submit(spec_of(base, epochs=5000))
    road.wait(job_id, has_stepped)
    pid = road.run_pid(job_id)
    next_id = road.submit(spec_of(base, epochs=1))
    asked = time.monotonic()
    assert road.client.post(f"/jobs/{job_id}/cancel").json()["state"] == "cancelling"
    ended = road.wait_for_end(job_id)
    assert time.monotonic() - asked < 10
    assert ended["state"] == "cancelled"
    assert not Path(f"/proc/{pid}").exists()
    states = [e["data"]["state"] for e in road.events(job_id) if e["type"] == "state"]
    assert states == ["queued", "running", "cancelling", "cancelled"]
    assert road.wait_for_end(next_id)["state"] == "succeeded"


def test_worker_that_is_asked_to_stop_saves_and_another_goes_on(road, base):
    road.start_worker()
    job_id = road.submit(spec_of(base, epochs=400, evaluation={"strategy": "no"}))
    road.wait(job_id, lambda job: job["progress"] and job["progress"]["step"] >= 20)
    road.stop_workers()
    waiting = road.job(job_id)
    assert waiting["state"] == "queued"
    assert waiting["attempts"][0]["reason"] == "the worker stopped"
    assert waiting["max_attempts"] == road.settings.max_attempts + 1  # it does not count
    assert not road.training_pids()
    road.start_worker()
    ended = road.wait_for_end(job_id)
    road.stop_workers()
    assert ended["state"] == "succeeded"
    before, after = ended["attempts"]
    assert 20 <= before["last_step"] < 3600
    assert after["first_step"] == before["last_step"] + 1  # not one step was lost


def test_killed_worker_takes_its_training_along_and_another_goes_on(road, base):
    road.start_worker()
    job_id = road.submit(spec_of(base, epochs=300))
    road.wait(job_id, lambda job: job["progress"] and job["progress"]["epoch"] >= 1.5)
    pid = road.run_pid(job_id)
    road.stop_workers(signal.SIGKILL)
    assert_soon(lambda: not Path(f"/proc/{pid}").exists())
    road.start_worker()
    road.wait(job_id, lambda job: job["attempt"] == 2 and has_stepped(job))
    job = road.job(job_id)
    assert job["attempts"][0]["reason"] == "lease lost"
    road.client.post(f"/jobs/{job_id}/cancel")
    assert road.wait_for_end(job_id)["state"] == "cancelled"
    road.stop_workers()


def test_killed_training_is_tried_again_up_to_the_cap_and_then_says_by_what(road, base, worker):
    job_id = road.submit(spec_of(base, epochs=5000))
    for attempt in range(1, road.settings.max_attempts + 1):
        road.wait(
            job_id,
            lambda job, attempt=attempt: job["attempt"] == attempt and job["phase"] == "training",
        )
        os.kill(road.run_pid(job_id), signal.SIGKILL)
    ended = road.wait_for_end(job_id)
    assert ended["state"] == "failed"
    assert ended["error"]["code"] == "process_died"
    assert "SIGKILL" in ended["error"]["message"]
    assert [a["reason"] for a in ended["attempts"]] == ["process_died"] * 3


def test_errors_of_the_run_end_the_job_with_their_code(road, base, worker):
    folder = save_encoder(road.settings.model_roots[0] / "hostile")
    answer = road.client.post("/models", json={"name": "hostile", "path": str(folder)})
    assert answer.status_code == 201, answer.text
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "attack.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    hostile = road.submit(spec_of(base, model="model:hostile"))
    endless = road.submit(spec_of(base, epochs=5000, resources={"max_runtime_seconds": 3}))
    ended = road.wait_for_end(hostile)
    assert (ended["state"], ended["error"]["code"]) == ("failed", "unsafe_model")
    assert "auto_map" in ended["error"]["message"]
    assert ended["attempt"] == 1  # trying again would not help
    ended = road.wait_for_end(endless)
    assert (ended["state"], ended["error"]["code"]) == ("failed", "max_runtime_reached")
    left = road.settings.home / "runs" / endless / "attempt-1"
    assert_soon(lambda: not (left / "inputs").exists())
    assert len(list((left / "checkpoints").glob("*"))) <= 1  # the newest stays
    kept = {path.name for path in left.iterdir()}
    assert {"spec.json", "inputs.json"} <= kept
    assert not kept & {"model", "cache"}


def test_queued_job_that_is_cancelled_never_runs(road, base):
    job_id = road.submit(spec_of(base))
    assert road.client.post(f"/jobs/{job_id}/cancel").json()["state"] == "cancelled"
    road.start_worker()
    other = road.submit(spec_of(base, epochs=1))
    assert road.wait_for_end(other)["state"] == "succeeded"
    road.stop_workers()
    assert road.job(job_id)["attempts"] == []


def assert_soon(condition, *, seconds=5):
    """Wait for what a worker does after the state is written."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def chats(count):
    turns = [
        {"role": "user", "content": "is it red"},
        {"role": "assistant", "content": "it is red"},
    ]
    return "".join(json.dumps({"messages": turns}) + "\n" for _ in range(count))


def classify(folder, text):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        best = int(model(**tokenizer(text, return_tensors="pt")).logits.argmax())
    return model.config.id2label[best]
