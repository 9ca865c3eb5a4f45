import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.training.test_dpo import pairs
from tests.training.tiny import carry_out, make_run, save_decoder
from trainer_core.run_directory import RunDirectory
from trainer_core.training.tasks.orpo import odds_ratio_losses

pytestmark = pytest.mark.slow

FAST = {"learning_rate": 2e-2, "batch_size": 8, "epochs": 4, "weight_decay": 0.0}
MEANS = [(-0.5, -2.0), (-3.5, -0.01), (-1.0, -1.0), (-1e-4, -30.0)]  # nats a token


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_decoder(tmp_path_factory.mktemp("models") / "decoder")


def _make(folder: Path, model: Path, **parts: Any) -> RunDirectory:
    training = {**FAST, **parts.pop("training", {})}
    spec = {"task": "orpo", "training": training, **parts}
    return make_run(folder, model=model, rows=pairs(48), spec=spec)


def _log_odds(mean: float) -> float:
    return math.log(math.exp(mean) / (1 - math.exp(mean)))


def test_the_odds_ratio_is_that_of_the_paper() -> None:
    expected = [
        -math.log(1 / (1 + math.exp(_log_odds(rejected) - _log_odds(chosen))))
        for chosen, rejected in MEANS
    ]
    found = odds_ratio_losses(torch.tensor(MEANS, dtype=torch.float64))
    assert found.tolist() == pytest.approx(expected, rel=1e-8)


def test_the_odds_ratio_is_that_of_trl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.orpo import ORPOTrainer

    trainer = SimpleNamespace(beta=1.0, accelerator=SimpleNamespace(device="cpu"))
    chosen, rejected = torch.tensor(MEANS).unbind(1)
    expected, *_ = ORPOTrainer.odds_ratio_loss(trainer, chosen, rejected)
    found = odds_ratio_losses(torch.tensor(MEANS))
    assert found.tolist() == pytest.approx((-expected).tolist(), rel=1e-4, abs=1e-6)


def test_a_certainty_has_a_finite_loss_and_gradient() -> None:
    means = torch.tensor([[0.0, -1.0], [-1.0, 0.0], [-1e-8, -200.0]], requires_grad=True)
    loss = odds_ratio_losses(means).sum()
    (slope,) = torch.autograd.grad(loss, means)
    assert loss.isfinite()
    assert slope.isfinite().all()


def test_answers_and_preferences_are_learnt_at_once(decoder: Path, tmp_path: Path) -> None:
    held_out = pairs(6)
    directory = make_run(
        tmp_path / "run",
        model=decoder,
        rows=pairs(48),
        spec={"task": "orpo", "training": FAST, "beta": 0.5, "evaluation": {"metric": "loss"}},
        eval=held_out,
    )
    outcome = carry_out(directory)
    assert outcome.metrics["reward_accuracy"] > 0.95
    assert outcome.metrics["nll"] < 0.65 * outcome.metrics["baseline_nll"]

    tokenizer = AutoTokenizer.from_pretrained(directory.model)
    model = AutoModelForCausalLM.from_pretrained(directory.model)
    means = []
    for row in held_out:
        for side in ("chosen", "rejected"):
            start = len(tokenizer(row["prompt"]).input_ids)
            ids = [*tokenizer(row["prompt"] + row[side]).input_ids, tokenizer.eos_token_id]
            labels = torch.tensor([[-100] * start + ids[start:]])
            with torch.no_grad():  # transformers' own loss is the mean over the labels
                means.append(-float(model(input_ids=torch.tensor([ids]), labels=labels).loss))
    by_pair = np.array(means).reshape(-1, 2)
    ratios = odds_ratio_losses(torch.from_numpy(by_pair)).numpy()
    assert outcome.metrics["nll"] == pytest.approx(-by_pair[:, 0].mean(), abs=1e-4)
    expected = (-by_pair[:, 0] + 0.5 * ratios).mean()
    assert outcome.metrics["loss"] == pytest.approx(expected, abs=1e-4)
