"""Classes that count more than others: the loss is the weighted mean over the whole step."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from tests.training.tiny import COLOURS, carry_out, colour_rows, events_of, make_run, save_encoder
from trainer_core.errors import InvalidSpec
from trainer_core.run_directory import read_json
from trainer_core.spec import parse_spec
from trainer_core.training.losses.class_weights import (
    class_weights,
    multi_label_weight,
    single_label_weight,
)
from trainer_core.training.tasks.text_classification import multi_label_loss, single_label_loss

pytestmark = pytest.mark.slow

SGD = {"learning_rate": 0.1, "batch_size": 16, "weight_decay": 0.0, "optimizer": "sgd", "epochs": 1}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("models") / "encoder", dropout=0.0)


def _weights(weights: Any, *, problem: str = "single-label") -> torch.Tensor | None:
    spec: Any = parse_spec(
        {
            "task": "text-classification",
            "model": "model:m",
            "data": {"train": "dataset:ds_0123456789ab"},
            "problem": problem,
            "class_weights": weights,
        }
    )
    return class_weights(
        spec, classes=("a", "b", "c"), num_rows_C=np.array([60, 30, 10]), num_rows=100
    )


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.repeat([0, 1, 2], [60, 30, 10])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    weights = _weights("balanced")
    assert weights is not None
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    positive = _weights("balanced", problem="multi-label")
    assert positive is not None
    np.testing.assert_allclose(positive, [40 / 60, 70 / 30, 90 / 10], rtol=1e-6)
    given = _weights({"c": 4, "a": 0.5})
    assert given is not None
    assert given.tolist() == [0.5, 1.0, 4.0]
    assert _weights("none") is None
    assert _weights("balanced", problem="regression") is None


def test_a_weight_of_a_class_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidSpec) as caught:
        _weights({"a": 2, "d/e": 3})
    (problem,) = caught.value.problems
    assert problem.pointer == "/class_weights/d~1e"
    assert "a, b, c" in problem.message


def test_weighted_losses_are_the_means_of_torch() -> None:
    class Output:
        logits = torch.randn(6, 3, requires_grad=True)

    weights = torch.tensor([0.5, 1.0, 4.0])
    labels = torch.tensor([0, 1, 2, 0, 1, 0])
    total = single_label_weight({"labels": labels}, weights_C=weights)
    assert total == 3 * 0.5 + 2 * 1 + 4
    for smoothing in (0.0, 0.1):
        torch.testing.assert_close(
            single_label_loss(Output, labels, total, smoothing=smoothing, weights_C=weights),
            functional.cross_entropy(
                Output.logits, labels, weight=weights, label_smoothing=smoothing
            ),
        )
    marks = torch.randint(2, (6, 3)).float()
    total = multi_label_weight({"labels": marks}, weights_C=weights)
    losses = functional.binary_cross_entropy_with_logits(Output.logits, marks, reduction="none")
    decisions = torch.where(marks == 1, weights, 1.0)
    torch.testing.assert_close(
        multi_label_loss(Output, marks, total, weights_C=weights),
        (losses * decisions).sum() / decisions.sum(),
    )


def _uneven() -> list[dict[str, Any]]:
    """Return 32 red, 16 green and 4 blue rows."""
    rows = colour_rows(96)
    return [*rows[::3], *rows[1:48:3], *rows[2:14:3]]


def test_a_row_of_weight_w_counts_as_w_rows_however_the_step_is_cut(
    encoder: Path, tmp_path: Path
) -> None:
    # A whole epoch is one step, so that its loss is the weighted mean in closed form.
    rows = _uneven()
    weights = {"red": 1.0, "green": 2.0, "blue": 8.0}
    repeated = [row for row in rows for _ in range(int(weights[row["label"]]))]
    saved = []
    for name, data, changes in (
        ("weighted", rows, {"class_weights": weights}),
        ("repeated", repeated, {}),
    ):
        training = {**SGD, "batch_size": len(data), "micro_batch_size": 4, "max_grad_norm": None}
        training["warmup_ratio"] = 0.0
        spec = {"task": "text-classification", "training": training, "data": {"eval": None}}
        directory = make_run(
            tmp_path / name, model=encoder, rows=data, spec={**spec, **changes}, test=data
        )
        outcome = carry_out(directory)
        assert outcome.step == 1, outcome.error
        saved.append((load_file(directory.model / "model.safetensors"), outcome.metrics))
    for name, tensor in saved[0][0].items():
        torch.testing.assert_close(saved[1][0][name], tensor, rtol=1e-4, atol=1e-6)
    # What is told of rows that weigh w is what w equal rows would give.
    assert saved[0][1]["test_loss"] == pytest.approx(saved[1][1]["test_loss"], rel=1e-4)


def test_multi_label_runs_choose_a_threshold_and_test_by_it(encoder: Path, tmp_path: Path) -> None:
    chance = random.Random(5)  # noqa: S311
    picked = [chance.sample(COLOURS, chance.randint(0, 2)) for _ in range(160)]
    rows = [{"text": " ".join(["it is", *names]), "label": names} for names in picked]
    spec = {
        "task": "text-classification",
        "problem": "multi-label",
        "threshold": "auto",
        "class_weights": "balanced",
        "training": {"learning_rate": 3e-3, "batch_size": 16, "epochs": 8},
        "data": {"eval": 0.25},
    }
    directory = make_run(tmp_path / "run", model=encoder, rows=rows, spec=spec, test=rows[:40])
    outcome = carry_out(directory)
    assert 0 < outcome.metrics["threshold"] < 1
    assert outcome.metrics["test_threshold"] == pytest.approx(outcome.metrics["threshold"])
    assert outcome.metrics["test_micro_f1"] > 0.9
    assert not events_of(directory, "warning")
    assert read_json(directory.resolved)["spec"]["threshold"] == "auto"  # by the rows, each time


def test_weights_for_numbers_and_a_threshold_without_evaluation_are_told() -> None:
    values = {
        "task": "text-classification",
        "model": "model:m",
        "data": {"train": "dataset:ds_0123456789ab", "eval": None},
    }
    with pytest.raises(InvalidSpec, match="evaluation rows"):
        parse_spec({**values, "problem": "multi-label", "threshold": "auto"})
    spec = parse_spec({**values, "problem": "regression", "class_weights": "balanced"})
    assert [problem.pointer for problem in spec.unused()] == ["/class_weights"]
