"""Models of the Hub without their weights: a real process, and a Hub on loopback."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save

from jobs import outlines
from jobs.outlines import fetch_outline, known_outline
from tests.fake_hub import hub
from trainer_core.errors import ModelNotFound, ServiceUnavailable
from trainer_core.spec import Reference, Scheme

__all__ = ["hub"]

pytestmark = pytest.mark.slow

MODEL = Reference(Scheme.HUB, "owner/name")
TOKEN = "hf_" + "t" * 30
WEIGHTS = save({"a": np.ones((1000, 1000), np.float32), "b": np.ones(7, np.float16)})
FILES = {"config.json": b"{}", "tokenizer.json": b'{"a": 1}', "model.safetensors": WEIGHTS}


def fetch(home: Path, model: Reference = MODEL, *, token: str | None = None) -> outlines.Outline:
    return fetch_outline(model, home=home, project="red" if token else None, token=token)


def test_an_outline_has_the_small_files_and_the_shapes_of_the_weights(hub, tmp_path):
    others = {
        "1_Pooling/config.json": b"{}",
        "additional_chat_templates/tools.jinja": b"x",
        "pytorch_model.bin": b"pickle",
        "code.py": b"code",
        "onnx/config.json": b"{}",
        "consolidated.safetensors": WEIGHTS,
        "../config.json": b"{}",
    }
    commit = hub.push({**FILES, **others})
    found = fetch(tmp_path)
    kept = [path for path in found.folder.rglob("*") if path.is_file()]
    assert {path.relative_to(found.folder).as_posix() for path in kept} == {
        *FILES, "1_Pooling/config.json", "additional_chat_templates/tools.jinja"
    }  # fmt: skip
    assert found.folder.name == commit
    assert found.num_weights == 1_000_007
    weights = found.folder / "model.safetensors"
    assert weights.stat().st_size == len(WEIGHTS)
    assert weights.stat().st_blocks * 512 < 200_000
    with safe_open(weights, framework="numpy") as tensors:
        assert tensors.get_slice("a").get_shape() == [1000, 1000]
    assert hub.num_bytes_sent < 300_000


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_headers_longer_than_usual_and_shards_are_read_whole(hub, tmp_path, knows_ranges):
    hub.knows_ranges = knows_ranges
    many = save({f"layer.{n}.weight": np.ones(1, np.float32) for n in range(3000)})
    assert int.from_bytes(many[:8], "little") > 200_000
    shards = {"model-1.safetensors": many, "model-2.safetensors": save({"z": np.ones(5)})}
    index = {"weight_map": {"a": "model-1.safetensors", "z": "model-2.safetensors", "x": "x.json"}}
    hub.push({"model.safetensors.index.json": json.dumps(index).encode(), **shards})
    found = fetch(tmp_path)
    assert found.num_weights == 3005
    with safe_open(found.folder / "model-1.safetensors", framework="numpy") as tensors:
        assert len(tensors.keys()) == 3000


def test_what_is_known_is_fetched_once_and_a_branch_that_moves_is_followed(hub, tmp_path):
    first = hub.push(FILES)
    assert known_outline(MODEL, home=tmp_path, project=None) is None
    assert fetch(tmp_path).folder.name == first
    asked = hub.num_requests
    assert fetch(tmp_path).folder.name == first
    assert hub.num_requests == asked + 1  # where the branch is now
    pinned = Reference(Scheme.HUB, MODEL.name, first)
    fetch(tmp_path, pinned)
    asked = hub.num_requests
    assert fetch(tmp_path, pinned).folder.name == first
    assert hub.num_requests == asked
    second = hub.push({**FILES, "model.safetensors": save({"a": np.ones(3)})})
    assert fetch(tmp_path).folder.name == second
    known = known_outline(MODEL, home=tmp_path, project=None)
    assert known is not None
    assert known.num_weights == 3


def test_without_a_network_what_was_known_last_is_taken(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ServiceUnavailable, match="HF_HUB_OFFLINE"):
        fetch(tmp_path)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    commit = hub.push(FILES)
    fetch(tmp_path)
    asked = hub.num_requests
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch(tmp_path).folder.name == commit
    assert hub.num_requests == asked


@pytest.mark.parametrize(("is_private", "why"), [(False, "gated"), (True, "does not show it")])
def test_what_a_token_opens_is_open_to_its_project_alone(hub, tmp_path, is_private, why):
    hub.token, hub.is_private = TOKEN, is_private
    hub.push(FILES)
    with pytest.raises(ModelNotFound, match=why):
        fetch(tmp_path)
    with pytest.raises(ModelNotFound, match="owner of the token"):
        fetch(tmp_path, token="hf_" + "x" * 30)
    assert fetch(tmp_path, token=TOKEN).num_weights == 1_000_007
    assert known_outline(MODEL, home=tmp_path, project="red")
    for project in (None, "blue"):
        assert known_outline(MODEL, home=tmp_path, project=project) is None
    with pytest.raises(ModelNotFound, match=why):
        fetch(tmp_path)


def test_a_token_of_the_operator_is_not_used(hub, tmp_path, monkeypatch):
    hub.token = TOKEN
    hub.push(FILES)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(ModelNotFound):
        fetch(tmp_path)


def test_a_revision_that_is_not_there_is_told(hub, tmp_path):
    hub.push(FILES)
    with pytest.raises(ModelNotFound, match="owner/name@v9"):
        fetch(tmp_path, Reference(Scheme.HUB, MODEL.name, "v9"))


def test_a_hub_that_can_not_be_reached_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(ServiceUnavailable, match="could not be fetched from the Hub"):
        fetch(tmp_path)
    assert not list(tmp_path.rglob(".draft-*"))


def test_a_hub_that_says_nothing_is_not_waited_for(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(outlines, "FETCH_SECONDS", 0.5)
    hub.hangs = True
    with pytest.raises(ServiceUnavailable, match=r"within 0\.5 seconds"):
        fetch(tmp_path)
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    commands = [Path(f"/proc/{child}/cmdline").read_text() for child in children]
    assert not [command for command in commands if "jobs.outlining" in command]


HUGE_HEADER = (1 << 40).to_bytes(8, "little") + b"{" * (65 << 20)


@pytest.mark.parametrize(
    ("files", "sizes"),
    [
        ({"tokenizer.json": b"{}"}, {"tokenizer.json": 65 << 20}),
        ({"tokenizer.json": b" " * (65 << 20)}, {"tokenizer.json": 2}),  # it lies
        ({"model.safetensors": HUGE_HEADER}, {}),
    ],
)
def test_more_than_is_allowed_is_not_read(hub, tmp_path, files, sizes):
    hub.push({"config.json": b"{}", **files})
    hub.sizes = sizes
    with pytest.raises(ServiceUnavailable, match="more than 64 MiB"):
        fetch(tmp_path)
    assert not list(tmp_path.rglob("config.json"))


def test_a_model_without_safetensors_has_no_known_number_of_weights(hub, tmp_path):
    hub.push({"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    found = fetch(tmp_path)
    assert found.num_weights is None
    assert [path.name for path in found.folder.iterdir()] == ["config.json"]


def test_of_outlines_no_more_is_kept_than_allowed_and_none_in_use_is_removed(
    hub, tmp_path, monkeypatch
):
    monkeypatch.setattr(outlines, "_KEPT_BYTES", 0)
    pushed = [hub.push({"config.json": b"%d" % number}) for number in range(3)]
    old, used, new = (Reference(Scheme.HUB, MODEL.name, commit) for commit in pushed)
    folders = [fetch(tmp_path, one).folder for one in (old, used)]
    os.utime(folders[0], (0, 0))
    fetch(tmp_path, new)
    known = [known_outline(one, home=tmp_path, project=None) for one in (old, used, new)]
    assert [one is not None for one in known] == [False, True, True]
    notes = list((folders[0].parent / "revisions").iterdir())
    assert len(notes) == 2
