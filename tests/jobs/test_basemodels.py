"""The base model of a job, as a folder in which the weights are a hole."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save, save_file

from jobs.basemodels import NotHere, model_folder
from jobs.sealing import cipher_of
from jobs.store import artifacts, attempts, jobs, models, secrets
from jobs.weights import num_weights_in
from tests.fake_hub import hub
from tests.stored import keep_dataset
from trainer_core.errors import ModelNotFound
from trainer_core.spec import parse_spec

__all__ = ["hub"]

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


def test_weights_that_are_there_twice_are_counted_once(tmp_path):
    for name in ("consolidated", "model-1", "model-2"):
        save_file({name: np.zeros(5, np.float32)}, tmp_path / f"{name}.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "../c"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert num_weights_in(tmp_path) == 10
    save_file({"all": np.zeros(7, np.float32)}, tmp_path / "model.safetensors")
    assert num_weights_in(tmp_path) == 7


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

    folder = model_folder(backends, spec, tmp_path / "model", project=PROJECT, may_use_secrets=True)

    assert (folder / "config.json").read_bytes() == b"{}"
    copy = folder / weights.name
    assert copy.stat().st_size == weights.stat().st_size
    assert copy.stat().st_blocks * 512 < 100_000
    with safe_open(copy, framework="numpy") as tensors:
        assert tensors.get_slice("a").get_shape() == [1000, 1000]


def test_what_is_elsewhere_or_not_to_be_fetched_is_not_here(backends, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with backends.database.transaction() as tx:
        models.create(tx, "away", project=PROJECT, path="/no/such/folder", hub=None, revision=None)
        models.create(tx, "hub", project=PROJECT, path=None, hub="org/name", revision=None)
    gated = {"model": "hub:org/name", "secrets": {"hf": "mine"}}
    for changes, why in (
        ({"model": "model:away"}, "folder"),
        ({"model": "model:hub"}, "HF_HUB_OFFLINE"),
        ({"model": "hub:org/name"}, "HF_HUB_OFFLINE"),
        (gated, "may only read"),
    ):
        spec = parse_spec({**SPEC, **changes})
        with pytest.raises(NotHere, match=why):
            model_folder(backends, spec, Path(tmp_path), project=PROJECT, may_use_secrets=False)


@pytest.mark.parametrize("is_registered", [False, True])
def test_a_model_of_the_hub_is_outlined_with_the_token_that_the_job_names(
    backends, tmp_path, hub, is_registered
):
    hub.token = "hf_" + "t" * 30
    hub.push({"config.json": b"{}", "model.safetensors": save({"a": np.zeros(5)})})
    with backends.database.transaction() as tx:
        models.create(tx, "hub", project=PROJECT, path=None, hub="org/name", revision="main")
        cipher = cipher_of(backends.settings)
        secrets.put(tx, "mine", hub.token, project=PROJECT, cipher=cipher)
    model = "model:hub" if is_registered else "hub:org/name"
    spec = parse_spec({**SPEC, "model": model, "secrets": {"hf": "mine"}})
    folder = model_folder(backends, spec, tmp_path, project=PROJECT, may_use_secrets=True)
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert folder.is_relative_to(backends.settings.home / "cache/outlines/of-projects/default")
    with pytest.raises(ModelNotFound, match="gated"):
        model_folder(
            backends,
            parse_spec({**SPEC, "model": model}),
            tmp_path,
            project=PROJECT,
            may_use_secrets=True,
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
