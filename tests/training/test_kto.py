from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer
from trl import KTOTrainer

from tests.training.tiny import carry_out, make_run, save_decoder
from trainer_core.run_directory import Result, RunDirectory
from trainer_core.spec import parse_spec
from trainer_core.spec.tasks.kto import KTO
from trainer_core.training.recipes.completions import encode_completions, with_other_completion
from trainer_core.training.tasks.kto import divergence, kto_losses, mixed_up

pytestmark = pytest.mark.slow

FAST = {"learning_rate": 5e-3, "batch_size": 8, "epochs": 4, "weight_decay": 0.0}
RATIOS = [1.5, -0.75, 0.25, 3.0]
IS_GOOD = [True, False, False, True]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_decoder(tmp_path_factory.mktemp("models") / "decoder")


def _rows(count: int) -> list[dict[str, Any]]:
    """Return answers of which every third is right; neighbours share a question."""
    asked = [("sky", "blue", True), ("sky", "green", False), ("sky", "red", False)]
    return [
        {"prompt": f"{number // 3} what is {thing}", "completion": f" {colour}", "label": is_good}
        for number in range(count)
        for thing, colour, is_good in [asked[number % 3]]
    ]


def _make(folder: Path, model: Path, *, rows: Any = None, **parts: Any) -> RunDirectory:
    training = {**FAST, **parts.pop("training", {})}
    spec = {"task": "kto", "training": training, **parts}
    return make_run(folder, model=model, rows=rows or _rows(60), spec=spec)


def _spec(**parts: Any) -> KTO:
    values = {"task": "kto", "model": "model:m", "data": {"train": "dataset:ds_0123456789ab"}}
    spec = parse_spec({**values, **parts})
    assert isinstance(spec, KTO)
    return spec


def _trl(mixed: list[float], spec: KTO) -> float:
    """Return the loss that TRL's trainer computes for a batch, given the log-probabilities.

    Its loss is one method with the forward passes and its metrics, so a trainer without a model is
    put together of what that method reads.
    """
    trainer: Any = object.__new__(KTOTrainer)
    vars(trainer).update(
        model=SimpleNamespace(training=False),
        accelerator=SimpleNamespace(
            device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x
        ),
        beta=spec.beta,
        loss_type="kto",
        calculate_KL=True,
        desirable_weight=spec.desirable_weight,
        undesirable_weight=spec.undesirable_weight,
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        _metrics={"eval": defaultdict(list)},
        _total_train_tokens=0,
    )
    ids, mixed_ids = torch.zeros(4, 2).long(), torch.ones(4, 2).long()
    mask = torch.tensor([[0, 1]] * 4)

    def model(input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        found = torch.tensor(mixed if input_ids.any() else RATIOS)[:, None]
        nothing = torch.zeros(4, 1)
        return SimpleNamespace(log_probs=found, entropy=nothing, mean_logits=nothing)

    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "completion_mask": mask,
        "KL_input_ids": mixed_ids,
        "KL_attention_mask": mask,
        "KL_completion_mask": mask,
        "label": torch.tensor(IS_GOOD),
        "ref_logps": torch.zeros(4),
        "ref_KL_logps": torch.zeros(4),
    }
    return float(trainer._compute_loss(model, inputs, return_outputs=False))


@pytest.mark.parametrize("mixed", [[0.5, 1.0, -0.25, 2.0], [-1.0, -2.0, 0.5, 0.0]])
def test_the_loss_is_that_of_the_paper_and_of_trl(mixed: list[float]) -> None:
    spec = _spec(beta=0.3, desirable_weight=1.25, undesirable_weight=0.5)
    ratios, kl = torch.tensor(RATIOS), divergence(torch.tensor(mixed).mean())
    losses = kto_losses(ratios, torch.tensor(IS_GOOD), kl, spec=spec)
    point = max(0.0, np.mean(mixed))
    expected = [
        1.25 * (1 - 1 / (1 + np.exp(-0.3 * (ratio - point))))
        if is_good
        else 0.5 * (1 - 1 / (1 + np.exp(-0.3 * (point - ratio))))
        for ratio, is_good in zip(RATIOS, IS_GOOD, strict=True)
    ]
    assert losses.tolist() == pytest.approx(expected, rel=1e-6)
    assert float(losses.mean()) == pytest.approx(_trl(mixed, spec), rel=1e-6)


def test_a_row_alone_has_no_part_in_the_divergence(decoder: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(decoder)
    (alone,) = encode_completions([("it is", " red")], tokenizer=tokenizer, max_length=128)
    (mixed,) = mixed_up([alone], max_length=128)
    assert alone.num_learnt
    assert not mixed.num_learnt  # its own completion would tell of no divergence of others
    assert float(divergence(torch.tensor([1.0, torch.nan, 2.0]))) == 1.5
    assert float(divergence(torch.tensor([torch.nan]))) == 0.0
    directory = make_run(
        tmp_path / "run",
        model=decoder,
        rows=_rows(12),
        spec={"task": "kto", "training": {**FAST, "epochs": 2}},
        eval=_rows(1),
    )
    outcome = carry_out(directory)
    assert outcome.result is Result.SUCCEEDED, outcome.error
    assert outcome.metrics["kl"] == 0.0
    assert np.isfinite(outcome.metrics["loss"])


def test_good_answers_gain_on_bad_ones(decoder: Path, tmp_path: Path) -> None:
    outcome = carry_out(_make(tmp_path / "run", decoder))
    assert outcome.result is Result.SUCCEEDED, outcome.error
    assert outcome.metrics["reward_auc"] > 0.95
    good, bad = (outcome.metrics[f"{name}_reward"] for name in ("desirable", "undesirable"))
    assert outcome.metrics["reward_margin"] == pytest.approx(good - bad)
    assert outcome.metrics["baseline_loss"] == pytest.approx(0.5)
    assert outcome.metrics["baseline_kl"] == 0.0


def test_the_measured_loss_does_not_depend_on_the_batches(decoder: Path, tmp_path: Path) -> None:
    found = []
    for size in (3, 16):
        parts = {"evaluation": {"batch_size": size}, "training": {"epochs": 1}}
        directory = make_run(
            tmp_path / str(size),
            model=decoder,
            rows=_rows(30),
            spec={"task": "kto", **parts, "training": {**FAST, "epochs": 1}},
            eval=_rows(16),
        )
        found.append(carry_out(directory).metrics)
    for name in ("loss", "kl", "reward_margin"):
        assert found[0][name] == pytest.approx(found[1][name], abs=1e-6)


def test_an_adapter_learns(decoder: Path, tmp_path: Path) -> None:
    directory = _make(tmp_path / "run", decoder, adapter={"r": 8}, training={"learning_rate": 2e-2})
    assert carry_out(directory).metrics["reward_auc"] > 0.95


def test_answers_of_one_label_alone_are_refused(decoder: Path, tmp_path: Path) -> None:
    rows = [row for row in _rows(60) if row["label"]]
    error = carry_out(_make(tmp_path / "run", decoder, rows=rows)).error
    assert error is not None
    assert "every row of train.jsonl has the label 'true'" in error.message


def test_a_prompt_with_the_completion_of_another(decoder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(decoder)
    asked = [("it is", " red"), ("a new", " small blue")]
    one, other = encode_completions(asked, tokenizer=tokenizer, max_length=128)
    mixed = with_other_completion(one, other, max_length=128)
    end = tokenizer.eos_token
    assert tokenizer.decode(mixed.ids) == f"it is small blue{end}"
    assert tokenizer.decode(mixed.ids[mixed.is_learnt]) == f" small blue{end}"
