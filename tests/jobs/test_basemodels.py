"""The model of another job, as a folder in which the weights are a hole."""

from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from jobs.basemodels import NotHere, model_folder
from jobs.store import artifacts, attempts, jobs, models
from jobs.weights import num_weights_in
from tests.stored import keep_dataset
from trainer_core.spec import parse_spec

PROJECT = "default"
SPEC = {
    "task": "text-classification",
    "model": "model:tiny",
    "data": {"train": "dataset:ds_0123456789ab"},
}


def test_weights_are_counted_by_their_headers(tmp_path):
    save_file({"a": np.zeros((3, 4), np.float32)}, tmp_path / "model-1.safetensors")
    save_file({"b": np.zeros(5, np.float16)}, tmp_path / "model-2.safetensors")
    assert num_weights_in(tmp_path) == 17


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0[]"])
def test_what_is_no_model_has_no_known_number_of_weights(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    assert num_weights_in(tmp_path) is None
    assert num_weights_in(tmp_path / "nowhere") is None


def test_of_the_weights_of_a_job_only_the_header_is_copied(backends, tmp_path):
    weights = tmp_path / "model.safetensors"
    save_file({"a": np.ones((1000, 1000), np.float32)}, weights)
    job_id = _keep_model(backends, {"config.json": b"{}", weights.name: weights.read_bytes()})
    spec = parse_spec({**SPEC, "model": f"job:{job_id}"})

    folder = model_folder(backends, spec, tmp_path / "model", project=PROJECT)

    assert (folder / "config.json").read_bytes() == b"{}"
    copy = folder / weights.name
    assert copy.stat().st_size == weights.stat().st_size
    assert copy.stat().st_blocks * 512 < 100_000
    with safe_open(copy, framework="numpy") as tensors:
        assert tensors.get_slice("a").get_shape() == [1000, 1000]


def test_models_of_the_hub_and_folders_of_elsewhere_are_not_here(backends, tmp_path):
    with backends.database.transaction() as tx:
        models.create(tx, "away", project=PROJECT, path="/no/such/folder", hub=None, revision=None)
        models.create(tx, "hub", project=PROJECT, path=None, hub="org/name", revision=None)
    for model, why in (("model:away", "folder"), ("model:hub", "Hub"), ("hub:org/name", "Hub")):
        with pytest.raises(NotHere, match=why):
            model_folder(
                backends, parse_spec({**SPEC, "model": model}), Path(tmp_path), project=PROJECT
            )


def _keep_model(backends, files: dict[str, bytes]) -> str:
    """Keep a job with files, as a worker does."""
    with backends.database.transaction() as tx:
        keep_dataset(tx)
        job = jobs.create(tx, parse_spec(SPEC), project=PROJECT, max_attempts=1)
        attempts.claim(tx, worker="worker-1", lease_seconds=60)
    rows = []
    for path, content in files.items():
        key = f"models/{job.id}/{path}"
        stored = backends.storage.put(key, [content])
        rows.append(
            {"path": path, "key": key, "size_bytes": stored.size_bytes, "sha256": stored.sha256}
        )
    with backends.database.transaction() as tx:
        artifacts.add(tx, job.id, rows)
    return job.id
