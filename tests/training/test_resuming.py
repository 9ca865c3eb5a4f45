"""What a resumed run takes from its checkpoint, and when it can't take anything."""

from pathlib import Path
from typing import Any

import pytest

from tests.training.tiny import (
    carry_out,
    colour_rows,
    events_of,
    make_run,
    save_encoder,
    stop_after,
)
from trainer_core.run_directory import (
    LINEAGE,
    Result,
    RunDirectory,
    file_sha256,
    read_json,
    seal,
    write_json,
)
from trainer_core.spec import parse_spec
from trainer_core.training.loop.checkpoints import steps_saved
from trainer_core.training.loop.resuming import Checkpoint, keep_choices
from trainer_core.training.process.devices import Device

pytestmark = pytest.mark.slow

TWO_EPOCHS = {"epochs": 2, "learning_rate": 1e-3, "batch_size": 8}  # 10 steps


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("models") / "encoder")


def _make(folder: Path, encoder: Path, **training: Any) -> RunDirectory:
    spec = {"task": "text-classification", "training": {**TWO_EPOCHS, **training}}
    return make_run(folder, model=encoder, rows=colour_rows(42), spec=spec)


def _stopped(folder: Path, encoder: Path) -> RunDirectory:
    directory = _make(folder, encoder)
    assert stop_after(directory, step=2).result is Result.STOPPED
    return directory


def _decide_otherwise(checkpoint: Path, **values: Any) -> None:
    """Make a checkpoint one of an attempt that decided otherwise, as with another memory."""
    lineage = read_json(checkpoint / LINEAGE)
    for choice in lineage["choices"]:
        choice["value"] = values.get(choice["pointer"].rpartition("/")[2], choice["value"])
    write_json(checkpoint / LINEAGE, lineage)
    seal(checkpoint)


def test_a_resumed_run_keeps_what_was_decided_before(encoder: Path, tmp_path: Path) -> None:
    directory = _stopped(tmp_path / "run", encoder)
    first = read_json(directory.resolved)
    assert first["spec"]["training"]["micro_batch_size"] == 8
    _decide_otherwise(directory.checkpoints / "checkpoint-3", micro_batch_size=2, precision="bf16")
    assert carry_out(directory).result is Result.SUCCEEDED
    resolved = read_json(directory.resolved)
    training = resolved["spec"]["training"]
    assert (training["micro_batch_size"], training["precision"]) == (2, "bf16")
    pointers = [[one["pointer"] for one in file["choices"]] for file in (first, resolved)]
    assert sorted(pointers[1]) == sorted(pointers[0])
    # What was decided before is what the last checkpoint says too.
    kept = read_json(directory.checkpoints / "checkpoint-10" / LINEAGE)["choices"]
    assert kept == resolved["choices"]


def test_an_undisturbed_resumption_is_told_as_bit_exact(encoder: Path, tmp_path: Path) -> None:
    directory = _stopped(tmp_path / "run", encoder)
    before = read_json(directory.lineage)["resolved_spec_sha256"]
    assert carry_out(directory).result is Result.SUCCEEDED
    assert events_of(directory, "warning") == []
    assert read_json(directory.lineage)["resolved_spec_sha256"] == before


@pytest.mark.parametrize("last", [3, 5, 10])  # in an epoch, and before an evaluation that is due
def test_an_attempt_tells_the_steps_that_it_took_and_no_other(
    encoder: Path, tmp_path: Path, last: int
) -> None:
    directory = _make(tmp_path / "run", encoder)
    assert stop_after(directory, step=last - 1).result is Result.STOPPED
    assert steps_saved(directory.checkpoints)[-1] == last
    told = len(events_of(directory))
    assert carry_out(directory).result is Result.SUCCEEDED
    after = [line.data["step"] for line in events_of(directory)[told:] if line.type == "progress"]
    assert after[:1] == [last + 1][: 10 - last]
    figures = [line.data for line in events_of(directory, "metrics")]
    assert {5, 10} <= {one["step"] for one in figures if one["split"] == "eval"}  # none was lost


@pytest.mark.parametrize("name", ["resolved_spec_sha256", "processor"])
def test_what_may_change_the_last_digits_is_told(encoder: Path, tmp_path: Path, name: str) -> None:
    directory = _stopped(tmp_path / "run", encoder)
    checkpoint = directory.checkpoints / "checkpoint-3"
    lineage = read_json(checkpoint / LINEAGE)
    assert lineage[name]
    write_json(checkpoint / LINEAGE, {**lineage, name: "another"})
    seal(checkpoint)
    assert carry_out(directory).result is Result.SUCCEEDED
    (warning,) = [line.data for line in events_of(directory, "warning")]
    assert warning["code"] == "not_bit_exact"
    assert warning["message"].startswith(f"{name} changed")


def test_another_revision_of_the_base_model_begins_anew(encoder: Path, tmp_path: Path) -> None:
    directory = _stopped(tmp_path / "run", encoder)
    (directory.checkpoints / "checkpoint-3").rename(directory.checkpoints / "checkpoint-300")
    inputs = read_json(directory.inputs)
    write_json(directory.inputs, {**inputs, "model_revision": "0123abc"})
    outcome = carry_out(directory)
    assert (outcome.result, outcome.step) == (Result.SUCCEEDED, 10)
    (warning,) = [line.data for line in events_of(directory, "warning")]
    assert warning["code"] == "checkpoint_unusable"
    assert "revision of the base model" in warning["message"]
    assert steps_saved(directory.checkpoints) == [5, 10]  # the old one, of step 300, is gone
    assert read_json(directory.model / "run.json")["base_model_revision"] == "0123abc"
    whole = _make(tmp_path / "whole", encoder)
    assert carry_out(whole).result is Result.SUCCEEDED
    hashes = [file_sha256(run.model / "model.safetensors") for run in (directory, whole)]
    assert hashes[0] == hashes[1]


def test_a_base_model_whose_files_have_changed_begins_anew(tmp_path: Path) -> None:
    model = save_encoder(tmp_path / "model")
    directory = _stopped(tmp_path / "run", model)
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-4:] = b"\0\0\0\0"  # of the same length, under the same name
    (model / "model.safetensors").write_bytes(weights)
    outcome = carry_out(directory)
    assert (outcome.result, outcome.step) == (Result.SUCCEEDED, 10)
    (warning,) = [line.data for line in events_of(directory, "warning")]
    assert warning["code"] == "checkpoint_unusable"
    assert "its files have changed" in warning["message"]


def test_a_checkpoint_of_a_version_that_told_less_is_gone_on_from(
    encoder: Path, tmp_path: Path
) -> None:
    directory = _stopped(tmp_path / "run", encoder)
    checkpoint = directory.checkpoints / "checkpoint-3"
    lineage = read_json(checkpoint / LINEAGE)
    del lineage["base_model_fingerprint"], lineage["processor"]
    write_json(checkpoint / LINEAGE, lineage)
    seal(checkpoint)
    assert carry_out(directory).result is Result.SUCCEEDED
    assert events_of(directory, "warning") == []


def test_what_this_device_can_not_do_is_decided_anew(encoder: Path, tmp_path: Path) -> None:
    spec = parse_spec(read_json(_make(tmp_path / "run", encoder).spec))
    choices = [
        {"pointer": "/training/precision", "value": "bf16", "why": "it had it fast"},
        {"pointer": "/training/micro_batch_size", "value": 4, "why": "so much did fit"},
        {"pointer": "/resources/gpus", "value": 1, "why": "the worker's device"},
        {"pointer": "/training/learning_rate", "value": 7.0, "why": "the spec says it now"},
        {"pointer": "/no/longer/there", "value": 1, "why": "an older version had it"},
    ]
    checkpoint = Checkpoint(tmp_path, {"choices": choices})
    old = Device(kind="cuda", name="old", memory_bytes=None, has_fast_bf16=False)
    kept_spec, kept = keep_choices(spec, checkpoint, device=old)
    assert [choice.pointer for choice in kept] == ["/training/micro_batch_size"]
    assert kept_spec.training.micro_batch_size == 4
    assert kept_spec.training.precision == "auto"
    assert kept_spec.training.learning_rate == TWO_EPOCHS["learning_rate"]
    new = Device(kind="cuda", name="new", memory_bytes=None, has_fast_bf16=True)
    assert keep_choices(spec, checkpoint, device=new)[0].training.precision == "bf16"
