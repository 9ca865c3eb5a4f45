"""What the trainer owes to any recipe: weights of tokens, order of rows, draws, its own class."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.training.tiny import carry_out, events_of, make_run, save_decoder, stop_after
from trainer_core.run_directory import Result, RunDirectory, file_sha256
from trainer_core.training.data.tokens import TokenRow
from trainer_core.training.loop.trainer import RecipeTrainer, RunTrainer
from trainer_core.training.recipes.recipe import Measured, Recipe, Setup
from trainer_core.training.tasks import causal_lm

pytestmark = pytest.mark.slow

# Short rows and long ones, which hold other words: steps hold rows of one length.
WORDS = ["a red", "small blue " * 10, "cold green " * 20]
ROWS = [{"text": f"it is {WORDS[number % 3]}"} for number in range(24)]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_decoder(tmp_path_factory.mktemp("models") / "decoder")


@pytest.fixture
def change(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Recipe], Recipe]], None]:
    """Put a task of the test's own in the place of causal-lm: the same with another recipe."""

    def register(changed: Callable[[Recipe], Recipe]) -> None:
        class Task(ModuleType):
            @staticmethod
            def build(setup: Setup) -> Recipe:
                return changed(causal_lm.build(setup))

        monkeypatch.setitem(sys.modules, causal_lm.__name__, Task("task"))

    return register


def _make(folder: Path, decoder: Path, **parts: Any) -> RunDirectory:
    training = {"batch_size": 4, "epochs": 2, "learning_rate": 1e-3, **parts.pop("training", {})}
    spec = {"task": "causal-lm", "training": training, **parts}
    return make_run(folder, model=decoder, rows=ROWS, spec=spec)


def _gradient_of_all_tokens(decoder: Path) -> tuple[dict[str, torch.Tensor], int]:
    """Return the gradient of the sum of all tokens' losses, by transformers' own loss."""
    tokenizer = AutoTokenizer.from_pretrained(decoder)
    model: Any = AutoModelForCausalLM.from_pretrained(decoder)
    count = 0
    for row in ROWS:
        ids = tokenizer(row["text"], return_tensors="pt").input_ids
        ids = torch.cat([ids, torch.tensor([[tokenizer.eos_token_id]])], dim=1)
        (model(input_ids=ids, labels=ids).loss * (ids.shape[1] - 1)).backward()
        count += ids.shape[1] - 1
    return {name: weight.grad for name, weight in model.named_parameters()}, count


@pytest.mark.parametrize("micro", [4, 1])
def test_each_token_weighs_the_same_whatever_the_length_of_its_row(
    decoder: Path, tmp_path: Path, micro: int
) -> None:
    rate = 3e-4  # so small that all steps see about the same weights
    training = {
        "epochs": 1,
        "learning_rate": rate,
        "micro_batch_size": micro,
        "optimizer": "sgd",
        "scheduler": "constant",
        "warmup_ratio": 0.0,
        "weight_decay": 0.0,
        "max_grad_norm": None,
    }
    directory = _make(tmp_path / "run", decoder, training=training, data={"eval": None})
    assert carry_out(directory).step == 6
    gradient, count = _gradient_of_all_tokens(decoder)
    before = load_file(decoder / "model.safetensors")
    after = load_file(directory.model / "model.safetensors")
    expected = torch.cat([-rate * part.flatten() / (count / 6) for part in gradient.values()])
    moved = torch.cat([(after[name] - before[name]).flatten() for name in gradient])
    assert (moved - expected).norm() < 0.05 * expected.norm()


def test_the_loss_that_is_told_is_the_mean_over_the_steps_own_tokens(
    decoder: Path, tmp_path: Path
) -> None:
    directory = _make(tmp_path / "run", decoder, training={"learning_rate": 1e-7})
    outcome = carry_out(directory)
    told = [e.data["metrics"]["loss"] for e in events_of(directory, "metrics")]
    # An untrained model is as unsure of a short row's tokens as of a long one's.
    assert max(told) < 1.1 * min(told)
    assert outcome.metrics["loss"] == pytest.approx(np.mean(told), rel=0.05)


def test_metrics_get_the_predictions_in_the_order_of_the_file(
    decoder: Path, tmp_path: Path, change: Callable[..., None]
) -> None:
    seen: list[Measured] = []

    def watched(recipe: Recipe) -> Recipe:
        def measure(measured: Measured) -> dict[str, float]:
            seen.append(measured)
            return recipe.measure(measured)

        return replace(recipe, measure=measure)

    change(watched)
    directory = _make(
        tmp_path / "run", decoder, evaluation={"batch_size": 4}, data={"eval": 0.25, "test": 0.25}
    )
    assert carry_out(directory).result is Result.SUCCEEDED
    # Before the first step too, after each epoch, and once at the end.
    assert [measured.split for measured in seen][-3:] == ["eval", "eval", "test"]
    for measured in seen:
        num_targets = [int(row["is_learnt"][1:].sum()) for row in measured.rows]  # type: ignore[attr-defined]
        assert num_targets != sorted(num_targets, reverse=True)
        assert [int(row[1]) for row in measured.predictions] == num_targets
        # Three numbers a row are kept, neither logits nor labels.
        assert {row.shape for row in measured.predictions} == {(3,)}


def _noisy(row: TokenRow, chance: np.random.Generator) -> TokenRow:
    ids = row["input_ids"].copy()
    ids[chance.integers(len(ids))] = chance.integers(3, 200)
    return {**row, "input_ids": ids}


def test_draws_are_the_same_in_a_resumed_run_and_in_loader_workers(
    decoder: Path, tmp_path: Path, change: Callable[..., None]
) -> None:
    def hash_of(name: str, *, stop: int | None = None, **training: Any) -> str:
        directory = _make(tmp_path / name, decoder, training=training)
        if stop is not None:
            assert stop_after(directory, step=stop).result is Result.STOPPED
        assert carry_out(directory).result is Result.SUCCEEDED
        return file_sha256(directory.model / "model.safetensors")

    plain = hash_of("plain")
    change(lambda recipe: replace(recipe, draw=_noisy))
    whole = hash_of("whole")
    assert whole != plain
    # Steps 8 and 9 are in the second epoch of 6 steps, whose draws are others than the first's.
    assert {hash_of(f"stopped-{n}", stop=n) for n in (2, 6, 8)} == {whole}
    assert hash_of("workers", stop=8, data_loader_workers=1) == whole


def test_a_recipe_may_name_the_class_that_trains_it(
    decoder: Path, tmp_path: Path, change: Callable[..., None]
) -> None:
    class Counting(RunTrainer):
        steps = 0

        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            Counting.steps += 1
            return super().training_step(*args, **kwargs)

    change(lambda recipe: replace(recipe, trainer_class=Counting))
    outcome = carry_out(_make(tmp_path / "run", decoder, data={"eval": None}))
    assert outcome.step == Counting.steps == 12


def test_gradients_are_clipped_as_the_stock_trainer_clips_them(
    decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hash_of(name: str) -> str:
        directory = _make(tmp_path / name, decoder, training={"max_grad_norm": 0.05})
        assert carry_out(directory).result is Result.SUCCEEDED
        return file_sha256(directory.model / "model.safetensors")

    ours = hash_of("ours")
    monkeypatch.delattr(RecipeTrainer, "_clip_grad_norm")
    assert hash_of("stock") == ours
