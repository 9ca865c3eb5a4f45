import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from tests.training.tiny import (
    carry_out,
    events_of,
    make_run,
    save_decoder,
    save_encoder,
)
from trainer_core.run_directory import Result, RunDirectory
from trainer_core.training.tasks.reward_model import bradley_terry_loss

pytestmark = pytest.mark.slow

FAST = {"learning_rate": 3e-3, "batch_size": 8, "epochs": 4, "weight_decay": 0.0}
ORDER = ["red", "green", "blue"]  # from the worst to the best


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("models") / "encoder")


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_decoder(tmp_path_factory.mktemp("models") / "decoder")


def _pairs(count: int, *, chats: bool = False) -> list[dict[str, Any]]:
    chance = np.random.default_rng(1)
    rows = []
    for number in range(count):
        worse, better = sorted(chance.choice(3, size=2, replace=False))
        prompt = f"{['a', 'new', 'old'][number % 3]} round it is"
        chosen, rejected = ORDER[better], ORDER[worse]
        if chats:
            asked = {"role": "user", "content": prompt}
            sides = [[asked, {"role": "assistant", "content": c}] for c in (chosen, rejected)]
            rows.append({"chosen": sides[0], "rejected": sides[1]})
        else:
            rows.append({"prompt": prompt, "chosen": f" {chosen}", "rejected": f" {rejected}"})
    return rows


def _make(folder: Path, model: Path, *, rows: Any = None, **parts: Any) -> RunDirectory:
    training = {**FAST, **parts.pop("training", {})}
    spec = {"task": "reward-model", "training": training, **parts}
    return make_run(folder, model=model, rows=rows or _pairs(96), spec=spec)


def _printed(directory: RunDirectory, *, replace: tuple[str, str]) -> str:
    """Run the Python of the model card and return what it prints."""
    card = (directory.model / "README.md").read_text(encoding="utf-8")
    code = card.split("```python\n")[1].split("```")[0]
    code = code.replace("path/to/this/folder", str(directory.model)).replace(*replace)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})  # noqa: S102 - our own
    return printed.getvalue()


def test_an_order_is_learnt_and_shown_by_the_plain_pipeline(encoder: Path, tmp_path: Path) -> None:
    directory = _make(tmp_path / "run", encoder)
    outcome = carry_out(directory)
    assert outcome.result is Result.SUCCEEDED, outcome.error
    assert outcome.metrics["reward_accuracy"] > 0.95
    margin = outcome.metrics["chosen_reward"] - outcome.metrics["rejected_reward"]
    assert outcome.metrics["reward_margin"] == pytest.approx(margin)
    reward = pipeline("text-classification", model=str(directory.model), function_to_apply="none")
    rewards = [reward(f"a round it is {colour}")[0] for colour in ORDER]
    assert [found["label"] for found in rewards] == ["reward"] * 3
    scores = [found["score"] for found in rewards]
    assert scores == sorted(scores)
    shown = _printed(directory, replace=("A question and an answer", "a round it is blue"))
    assert f"{scores[2]:.4f}"[:5] in shown


def test_chats_are_scored_as_the_card_says(decoder: Path, tmp_path: Path) -> None:
    directory = _make(tmp_path / "run", decoder, rows=_pairs(96, chats=True))
    outcome = carry_out(directory)
    assert outcome.metrics["reward_accuracy"] > 0.95
    scores = [float(_printed(directory, replace=("An answer", colour))) for colour in ORDER]
    assert scores == sorted(scores)
    assert events_of(directory, "warning") == []


def test_the_loss_is_the_negative_log_likelihood_of_the_preference() -> None:
    class Model:
        def __call__(self, **_: Any) -> Any:
            return type("Output", (), {"logits": torch.tensor([[1.5], [0.5], [-1.0], [2.0]])})

    batch = {
        "input_ids": torch.zeros(2, 2, 3),
        "attention_mask": torch.ones(2, 2, 3),
        "margin": torch.tensor([[0.0], [0.25]]),
    }
    loss, found = bradley_terry_loss(Model(), batch, torch.tensor(2))
    expected = [-np.log(1 / (1 + np.exp(-1.0))), -np.log(1 / (1 + np.exp(3.25)))]
    assert found[:, 2].tolist() == pytest.approx(expected, rel=1e-6)
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-6)


def test_a_margin_asks_for_more(encoder: Path, tmp_path: Path) -> None:
    margins = []
    for wanted in (0.0, 20.0):
        rows = [{**row, "by": wanted} for row in _pairs(96)]
        data = {"columns": {"margin": "by"}}
        outcome = carry_out(_make(tmp_path / str(wanted), encoder, rows=rows, data=data))
        margins.append(outcome.metrics["reward_margin"])
    assert margins[1] > 1.05 * margins[0]


def test_an_adapter_learns_with_its_new_head(encoder: Path, tmp_path: Path) -> None:
    training = {"epochs": 2, "learning_rate": 1e-2}
    directory = _make(tmp_path / "run", encoder, training=training, adapter={"r": 8})
    assert carry_out(directory).metrics["reward_accuracy"] > 0.9
    model: Any = AutoModelForSequenceClassification.from_pretrained(directory.model)
    assert model.config.num_labels == 1


def test_a_reward_model_is_trained_further_with_its_head(encoder: Path, tmp_path: Path) -> None:
    first = _make(tmp_path / "first", encoder)
    tuned = carry_out(first).metrics
    second = _make(tmp_path / "second", first.model, training={"epochs": 1})
    assert carry_out(second).metrics["baseline_loss"] == pytest.approx(tuned["loss"], rel=1e-4)


def test_predictions_are_the_rewards_of_each_pair(encoder: Path, tmp_path: Path) -> None:
    directory = _make(tmp_path / "run", encoder, data={"test": 0.1}, training={"epochs": 1})
    outcome = carry_out(directory)
    lines = (directory.model / "predictions.jsonl").read_text().splitlines()
    margins = [json.loads(line)["reward_margin"] for line in lines]
    assert np.mean(margins) == pytest.approx(outcome.metrics["test_reward_margin"], rel=1e-5)
    assert AutoTokenizer.from_pretrained(directory.model).model_max_length == 64
