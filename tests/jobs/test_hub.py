"""Whole models of the Hub, as workers fetch them: a real process, and a Hub on loopback."""

import time

import pytest

from jobs.hub import fetch
from tests.fake_hub import hub
from trainer_core.errors import ModelNotFound

__all__ = ["hub"]

pytestmark = pytest.mark.slow

FILES = {"config.json": b"{}", "model.safetensors": b"weights", "tokenizer.model": b"words"}
TOKEN = "hf_" + "t" * 30


def nothing() -> None:
    """Let a download go on."""


def test_a_snapshot_has_weights_and_small_files_and_no_pickle_and_no_code(hub, tmp_path):
    commit = hub.push({**FILES, "pytorch_model.bin": b"pickle", "code.py": b"code"})
    folder = fetch("owner/name", revision=None, cache=tmp_path, check=nothing)
    assert folder.name == commit
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES


def test_a_gated_model_is_fetched_with_a_token_alone(hub, tmp_path):
    hub.token = TOKEN
    hub.push(FILES)
    with pytest.raises(ModelNotFound, match="gated"):
        fetch("owner/name", revision=None, cache=tmp_path / "all", check=nothing)
    cache = tmp_path / "one"
    assert fetch("owner/name", revision=None, cache=cache, check=nothing, token=TOKEN).is_dir()


def test_what_is_raised_meanwhile_ends_a_download(hub, tmp_path):
    hub.hangs = True
    before = time.monotonic()

    def lose() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        fetch("owner/name", revision=None, cache=tmp_path, check=lose)
    assert time.monotonic() - before < 60
