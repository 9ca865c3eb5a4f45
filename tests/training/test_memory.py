"""Running out of memory while training: what is told, and going on with a smaller micro-batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.tiny import carry_out, colour_rows, events_of, make_run, save_encoder
from trainer_core.run_directory import Result, RunDirectory, read_json, write_json
from trainer_core.spec import parse_spec
from trainer_core.training.loop.trainer import RecipeTrainer

pytestmark = pytest.mark.slow

ROWS = colour_rows(40)
NUM_STEPS = 10  # 5 an epoch
SHORT_FROM = 7  # the step from which the device has less memory
LONGEST = max(len(row["text"].split()) for row in ROWS) + 2  # tokens, with those at both ends
SGD = {"epochs": 2, "batch_size": 8, "optimizer": "sgd", "learning_rate": 0.1}

Shorten = Callable[[BaseException], None]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("models") / "encoder", dropout=0.0)


@pytest.fixture
def shorten(monkeypatch: pytest.MonkeyPatch) -> Shorten:
    """Let steps fail that pass more than four of the longest rows through the model at once."""
    step = RecipeTrainer.training_step

    def shorten(error: BaseException) -> None:
        def short(self: Any, model: Any, inputs: Any, divisor: Any) -> Any:
            num_tokens = inputs["input_ids"].numel()
            if self.state.global_step >= SHORT_FROM - 1 and num_tokens > 4 * LONGEST:
                raise error
            return step(self, model, inputs, divisor)

        monkeypatch.setattr(RecipeTrainer, "training_step", short)

    return shorten


def _make(folder: Path, encoder: Path, **training: Any) -> RunDirectory:
    spec = {
        "task": "text-classification",
        "training": {**SGD, **training},
        "evaluation": {"baseline": False},
        "resources": {"on_oom": "shrink"},
    }
    return make_run(folder, model=encoder, rows=ROWS, spec=spec, eval=colour_rows(6, seed=2))


def _weights(directory: RunDirectory) -> torch.Tensor:
    weights = load_file(directory.model / "model.safetensors")
    return torch.cat([weights[name].double().flatten() for name in sorted(weights)])


def _losses(directory: RunDirectory) -> dict[int, float]:
    """Return the losses by step; of a step done twice the later one."""
    told = [line.data for line in events_of(directory, "metrics")]
    return {one["step"]: one["metrics"]["loss"] for one in told if one["split"] == "train"}


def test_a_device_s_memory_runs_out_and_half_the_micro_batch_ends_the_run(
    encoder: Path, tmp_path: Path, shorten: Shorten
) -> None:
    whole = _make(tmp_path / "whole", encoder, micro_batch_size=4)
    assert carry_out(whole).result is Result.SUCCEEDED
    directory = _make(tmp_path / "run", encoder)
    shorten(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    outcome = carry_out(directory)
    assert outcome.result is Result.FAILED
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.retryable) == ("out_of_memory", False)
    assert "micro_batch_size to 4; the result stays the same" in outcome.error.hint
    assert outcome.error.detail["device"] == "cuda:0"
    assert outcome.error.detail["suggested_spec"]["training"]["micro_batch_size"] == 4

    inputs = read_json(directory.inputs)
    write_json(directory.inputs, {**inputs, "micro_batch_size": 4})
    outcome = carry_out(directory)
    assert (outcome.result, outcome.step) == (Result.SUCCEEDED, NUM_STEPS), outcome.error
    assert "resuming from checkpoint-5" in [e.data["message"] for e in events_of(directory, "log")]
    assert read_json(directory.spec)["training"].get("micro_batch_size") is None  # as it was given
    resolved = read_json(directory.resolved)
    assert resolved["spec"]["training"]["micro_batch_size"] == 4
    assert resolved["spec"]["evaluation"]["batch_size"] == 8
    whys = {choice["pointer"]: choice["why"] for choice in resolved["choices"]}
    assert "memory ran out" in whys["/training/micro_batch_size"]
    codes = [line.data["code"] for line in events_of(directory, "warning")]
    assert codes == ["not_bit_exact"]  # the sums of a step are taken in another order

    # As in test_invariants: SGD does not blow up the last bits of fp32.
    assert _losses(directory) == pytest.approx(_losses(whole), rel=1e-4)
    moved = _weights(whole).norm()
    assert (_weights(directory) - _weights(whole)).norm() < 1e-4 * moved


def test_the_suggested_spec_trains_where_the_given_one_could_not(
    encoder: Path, tmp_path: Path, shorten: Shorten
) -> None:
    shorten(MemoryError())
    directory = _make(tmp_path / "run", encoder, micro_batch_size=8)
    error = carry_out(directory).error
    assert error is not None
    assert error.detail["device"] == "host"
    assert 0 < error.detail["peak_bytes"] <= error.detail["limit_bytes"]
    again = _make(tmp_path / "again", encoder)
    parse_spec(error.detail["suggested_spec"])
    write_json(again.spec, error.detail["suggested_spec"])
    outcome = carry_out(again)
    assert (outcome.result, outcome.step) == (Result.SUCCEEDED, NUM_STEPS), outcome.error


def test_memory_that_runs_out_before_training_is_not_the_micro_batch_s(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_args: Any, **_kwargs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("trainer_core.training.run.build", load)
    error = carry_out(_make(tmp_path / "run", encoder)).error
    assert error is not None
    assert error.code == "out_of_memory"
    assert "smaller model" in error.hint
    assert error.detail["suggested_spec"] is None


def test_a_micro_batch_that_does_not_divide_the_batch_is_refused(
    encoder: Path, tmp_path: Path
) -> None:
    directory = _make(tmp_path / "run", encoder)
    write_json(directory.inputs, {**read_json(directory.inputs), "micro_batch_size": 3})
    error = carry_out(directory).error
    assert error is not None
    assert (error.code, "does not divide" in error.message) == ("invalid_spec", True)


def test_what_a_job_may_hold_bounds_the_automatic_micro_batch(
    encoder: Path, tmp_path: Path
) -> None:
    directory = _make(tmp_path / "run", encoder, epochs=1)
    write_json(directory.inputs, {**read_json(directory.inputs), "memory_bytes": 100_000})
    assert carry_out(directory).result is Result.SUCCEEDED
    assert read_json(directory.resolved)["spec"]["training"]["micro_batch_size"] == 1
