"""Validation over HTTP: what a job would do, and what is wrong with it."""

import json
import os
import signal
from pathlib import Path

import httpx
import pytest

from jobs.records import WorkerDevice
from jobs.store import workers
from tests.api.conftest import Shared, spec_of, upload
from trainer_core.rows import apart

GB = 1 << 30
SMALL = WorkerDevice("cpu", "cpu", "x86_64", GB, has_fast_bf16=False, num_threads=1)


def validated(client: httpx.Client, spec: object) -> dict:
    response = client.post("/jobs/validate", json=spec)
    assert response.status_code == 200, response.text
    return response.json()


def jobs_on(client: httpx.Client, spec: dict) -> list[str]:
    """Return the jobs on the data set of a spec; other tests have theirs in the same service."""
    listed = client.get("/jobs", params={"limit": 100}).json()["data"]
    return [job["id"] for job in listed if job["spec"]["data"]["train"] == spec["data"]["train"]]


def test_a_good_job_is_valid_and_its_rows_are_told(shared):
    spec = spec_of(upload(shared.client))
    found = validated(shared.client, spec)
    assert found["is_valid"]
    assert found["errors"] == []
    assert found["rows"]["num_rows"] == {"train": 36, "eval": 4, "test": 0}
    assert [one["label"] for one in found["rows"]["labels"]] == ["a", "b"]
    assert found["files"][0]["columns"][0] == {"name": "text", "type": "string"}
    assert "HF_HUB_OFFLINE" in found["missing"][0]["why"]
    assert jobs_on(shared.client, spec) == []


def test_a_submission_that_only_validates_answers_the_same_and_queues_nothing(shared):
    spec = spec_of(upload(shared.client))
    response = shared.client.post("/jobs", params={"validate_only": "true"}, json=spec)
    assert response.status_code == 200
    assert response.json() == validated(shared.client, spec)
    assert jobs_on(shared.client, spec) == []


def test_wrong_fields_wrong_references_and_wrong_rows_are_told_at_once(shared):
    rows = "text,label\n" + "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(20)) + ",a\n"
    spec = spec_of(
        upload(shared.client, rows),
        model="model:nobody",
        training={"learning_rate": -1, "batch_size": 0},
    )
    found = validated(shared.client, spec)
    assert not found["is_valid"]
    pointers = {
        one["pointer"] for error in found["errors"] for one in error["detail"].get("errors", ())
    }
    assert pointers == {"/training/learning_rate", "/training/batch_size", "/model"}
    (bad,) = [error for error in found["errors"] if error["code"] == "invalid_rows"]
    assert (bad["detail"]["rows"][0]["line"], bad["detail"]["rows"][0]["column"]) == (22, "text")
    assert found["rows"]["num_rows"]["train"] + found["rows"]["num_rows"]["eval"] == 20
    assert found["missing"][0]["why"] == "the spec has to be mended first"


@pytest.mark.parametrize("body", [[], "x", {}, {"task": "no-such"}, {"task": "dpo"}])
def test_a_body_that_is_no_spec_is_told_as_an_error(shared, body):
    found = validated(shared.client, body)
    assert not found["is_valid"]
    assert found["errors"][0]["code"] == "invalid_spec"
    assert found["rows"] is None


def test_a_secret_in_a_spec_is_an_error_as_in_a_submission_and_not_told_again(shared):
    token = "hf_" + "a1B2" * 8
    spec = spec_of(upload(shared.client), name=f"with {token}", labels={"key": token})
    refused = shared.client.post("/jobs", json=spec)
    found = validated(shared.client, spec)
    assert not found["is_valid"]
    (error,) = found["errors"]
    assert (refused.status_code, error["detail"]["errors"]) == (422, refused.json()["errors"])
    assert {one["pointer"] for one in refused.json()["errors"]} == {"/name", "/labels/key"}
    assert found["rows"]["num_rows"]["train"] == 36, "the rest is looked at"
    assert token not in json.dumps(found)


def test_what_is_there_twice_is_a_warning(shared):
    rows = "text,label\n" + "".join(f"text {n % 15},{'ab'[n % 15 % 2]}\n" for n in range(20))
    data = {"train": f"dataset:{upload(shared.client, rows)}", "eval": None}
    found = validated(shared.client, spec_of("", data=data))
    assert found["is_valid"]
    assert [one["code"] for one in found["warnings"]] == ["rows_repeated"]
    assert found["rows"]["num_duplicates"] == {"train": 5}
    assert found["rows"]["twins"][0]["line"] == 17


def test_rows_over_which_their_reader_dies_are_an_error_and_the_service_lives(shared, monkeypatch):
    spec = spec_of(upload(shared.client))
    monkeypatch.setattr(apart._Process, "ask", asked_of_the_dead)
    found = validated(shared.client, spec)
    monkeypatch.undo()
    assert [error["code"] for error in found["errors"]] == ["invalid_data"]
    assert "train.csv" in found["errors"][0]["message"]
    assert found["missing"][0]["why"] == "there are no rows to look at"
    assert validated(shared.client, spec)["is_valid"]


ask = apart._Process.ask


def asked_of_the_dead(process: apart._Process, request: dict) -> dict:
    """Ask a process that a signal ends, as a fault of a library in C does."""
    os.kill(process._child.pid, signal.SIGSEGV)
    return ask(process, request)


def test_a_data_set_is_checked_for_a_task_without_a_job(shared):
    dataset_id = upload(shared.client)
    url = f"/datasets/{dataset_id}/validate"
    fits = shared.client.post(url, json={"task": "text-classification"}).json()
    assert fits["is_valid"]
    assert fits["missing"][0]["why"] == "no model is named"
    columns = {"label": "intent"}
    wrong = shared.client.post(url, json={"task": "text-classification", "columns": columns})
    assert [one["code"] for one in wrong.json()["errors"]] == ["unknown_column"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/datasets/ds_nobody/validate", {"task": "dpo"}, 404),
        ("/datasets/{id}/validate", {"task": "dpo", "colums": {}}, 422),
        ("/datasets/{id}/validate", [], 422),
    ],
)
def test_a_wrong_request_for_a_data_set_is_a_problem(shared, path, body, status):
    url = path.replace("{id}", upload(shared.client))
    assert shared.client.post(url, json=body).status_code == status


def test_workers_are_listed_with_what_they_train_on(client, backends):
    assert client.get("/workers").json() == {"data": [], "has_more": False}
    with backends.database.transaction() as tx:
        workers.beat(tx, "worker-1", num_slots=2, devices=[SMALL])
    (found,) = client.get("/workers").json()["data"]
    assert (found["name"], found["num_slots"]) == ("worker-1", 2)
    assert found["devices"][0]["memory_bytes"] == GB


def test_a_job_that_fits_no_worker_is_refused_before_it_is_queued(client, backends, tmp_path):
    model = tmp_path / "models" / "large"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    write_header(model / "model.safetensors", num_weights=200_000_000)
    registered = client.post("/models", json={"name": "large", "path": str(model)})
    assert registered.status_code == 201, registered.text
    spec = spec_of(upload(client), model="model:large")
    with backends.database.transaction() as tx:
        workers.beat(tx, "worker-1", num_slots=1, devices=[SMALL])
    refused = client.post("/jobs", json=spec)
    assert refused.status_code == 422
    assert refused.json()["code"] == "nothing_fits"
    assert refused.json()["least_bytes"] > refused.json()["largest_bytes"] == GB
    with backends.database.transaction() as tx:
        workers.leave(tx, "worker-1")
    assert client.post("/jobs", json=spec).status_code == 201


def write_header(path: Path, *, num_weights: int) -> None:
    """Write the header of a safetensors file, and a hole where its weights would be."""
    num_bytes = 4 * num_weights
    tensor = {"dtype": "F32", "shape": [num_weights], "data_offsets": [0, num_bytes]}
    header = json.dumps({"weights": tensor}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + num_bytes)


def test_rows_that_suit_no_form_of_the_task_are_told(shared: Shared) -> None:
    data = {"train": f"dataset:{upload(shared.client)}"}  # of texts and labels
    spec = spec_of("", task="sentence-embedding", data=data)
    found = validated(shared.client, spec)
    assert not found["is_valid"]
    assert found["errors"]
