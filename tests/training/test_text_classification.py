import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from tests.training.tiny import (
    COLOURS,
    carry_out,
    colour_rows,
    events_of,
    make_run,
    save_encoder,
)
from trainer_core.run_directory import Result, read_json, verified_manifest, write_json
from trainer_core.training.tasks.text_classification import (
    regression_loss,
    single_label_loss,
)

pytestmark = pytest.mark.slow

FAST = {"learning_rate": 3e-3, "batch_size": 16, "weight_decay": 0.0}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("models") / "encoder", dropout=0.0)


def _spec(**parts: Any) -> dict[str, Any]:
    return {"task": "text-classification", "training": {**FAST, "epochs": 10}, **parts}


def test_single_label_is_learnt_and_the_model_predicts_the_same_when_loaded(
    encoder: Path, tmp_path: Path
) -> None:
    rows = colour_rows(240)
    directory = make_run(
        tmp_path / "run", model=encoder, rows=rows, spec=_spec(), test=colour_rows(60, seed=2)
    )
    outcome = carry_out(directory)
    assert outcome.result is Result.SUCCEEDED
    assert outcome.metrics["accuracy"] > 0.95
    assert outcome.metrics["test_accuracy"] > 0.95

    model = AutoModelForSequenceClassification.from_pretrained(directory.model)
    tokenizer = AutoTokenizer.from_pretrained(directory.model)
    assert model.config.id2label == {0: "blue", 1: "green", 2: "red"}
    assert model.config.problem_type == "single_label_classification"
    tested = colour_rows(60, seed=2)
    guesses, losses = [], []
    for row in tested:
        with torch.no_grad():
            logits = model(**tokenizer(row["text"], return_tensors="pt")).logits
        guesses.append(model.config.id2label[int(logits.argmax())])
        target = torch.tensor([model.config.label2id[row["label"]]])
        losses.append(float(torch.nn.functional.cross_entropy(logits, target)))
    accuracy = np.mean([guess == row["label"] for guess, row in zip(guesses, tested, strict=True)])
    assert accuracy == pytest.approx(outcome.metrics["test_accuracy"])
    assert np.mean(losses) == pytest.approx(outcome.metrics["test_loss"], rel=1e-4)


def test_the_finished_folder_is_sealed_and_holds_what_is_needed(
    encoder: Path, tmp_path: Path
) -> None:
    spec = _spec(name="Colours", training={**FAST, "epochs": 1})
    directory = make_run(tmp_path / "run", model=encoder, rows=colour_rows(40), spec=spec)
    carry_out(directory)
    manifest = verified_manifest(directory.model)
    assert manifest is not None
    assert {file.path for file in manifest} == {
        "README.md",
        "config.json",
        "evaluation.json",
        "model.safetensors",
        "run.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    card = (directory.model / "README.md").read_text()
    assert "# Colours" in card
    assert "More Information Needed" not in card
    assert str(tmp_path) not in "".join(
        path.read_text() for path in directory.model.glob("*.[jm][sd]*") if path.suffix != ".bin"
    )
    lineage = read_json(directory.lineage)
    assert lineage["num_rows"] == {"train": 36, "eval": 4, "test": 0}
    assert lineage["num_threads"] == 1
    resolved = read_json(directory.resolved)
    assert "auto" not in str(resolved["spec"])
    assert {choice["pointer"] for choice in resolved["choices"]} >= {"/max_length"}


def test_pairs_are_told_apart_by_their_second_text(encoder: Path, tmp_path: Path) -> None:
    chance = random.Random(4)  # noqa: S311
    rows = [
        {"text": one, "text_pair": two, "label": "same" if one == two else "other"}
        for one, two in (chance.choices(COLOURS, k=2) for _ in range(240))
    ]
    data = {"columns": {"text_pair": "text_pair"}, "eval": 0.2}
    spec = _spec(data=data, training={**FAST, "epochs": 10})
    directory = make_run(tmp_path / "run", model=encoder, rows=rows, spec=spec)
    assert carry_out(directory).metrics["accuracy"] > 0.95
    card = (directory.model / "README.md").read_text()
    code = card.partition("```python\n")[2].partition("```")[0]
    code = code.replace("path/to/this/folder", str(directory.model))
    names: dict[str, Any] = {}
    for two, expected in (("red", "same"), ("blue", "other")):
        pair = f'"text": "red", "text_pair": "{two}"'
        exec(code.replace('"text": "A text", "text_pair": "Another text"', pair), names)  # noqa: S102
        found = names["classify"]({"text": "red", "text_pair": two})
        assert (found[0] if isinstance(found, list) else found)["label"] == expected


def test_multi_label_is_learnt(encoder: Path, tmp_path: Path) -> None:
    chance = random.Random(5)  # noqa: S311
    picked = [chance.sample(COLOURS, chance.randint(0, 3)) for _ in range(300)]
    rows = [{"text": " ".join(["it is", *names]), "label": names} for names in picked]
    directory = make_run(
        tmp_path / "run", model=encoder, rows=rows, spec=_spec(problem="multi-label")
    )
    outcome = carry_out(directory)
    measured = {name for name in outcome.metrics if not name.startswith("baseline_")}
    assert measured == {
        "loss", "macro_f1", "micro_f1", "weighted_f1", "accuracy", "roc_auc",
    }  # fmt: skip
    assert outcome.metrics["macro_f1"] > 0.95
    classify: Any = pipeline("text-classification", model=str(directory.model), top_k=None)
    scores = {guess["label"]: guess["score"] for guess in classify(["it is red"])[0]}
    assert scores["red"] > 0.5 > scores["blue"]


def test_regression_is_learnt_and_minus_one_hundred_is_a_number(
    encoder: Path, tmp_path: Path
) -> None:
    value = {"red": -1.0, "green": 0.0, "blue": 2.0}
    rows = [{"text": row["text"], "label": value[row["label"]]} for row in colour_rows(240)]
    spec = _spec(problem="regression")
    outcome = carry_out(make_run(tmp_path / "run", model=encoder, rows=rows, spec=spec))
    assert outcome.metrics["mse"] < 0.1
    assert outcome.metrics["mse"] == pytest.approx(outcome.metrics["loss"], rel=1e-4)
    assert outcome.metrics["pearson"] > 0.97
    assert outcome.metrics["spearman"] > 0.9
    assert outcome.metrics["mae"] < 0.3

    rows = [{"text": row["text"], "label": -100} for row in colour_rows(40)]
    spec = _spec(problem="regression", training={**FAST, "epochs": 1})
    directory = make_run(tmp_path / "constant", model=encoder, rows=rows, spec=spec)
    outcome = carry_out(directory)
    assert outcome.result is Result.SUCCEEDED
    assert "pearson" not in outcome.metrics
    assert "metric_undefined" in {line.data["code"] for line in events_of(directory, "warning")}


def test_one_row_to_evaluate_on_gives_the_figures_that_are_defined(
    encoder: Path, tmp_path: Path
) -> None:
    for problem, defined in (
        ("single-label", {"accuracy", "macro_f1", "micro_f1", "weighted_f1", "loss"}),
        ("multi-label", {"macro_f1", "micro_f1", "weighted_f1", "accuracy", "loss"}),
        ("regression", {"mse", "mae", "loss"}),
    ):
        value: dict[str, Any] = {"single-label": "red", "multi-label": ["red"], "regression": 1.5}
        rows = [
            {**row, "label": [row["label"]] if problem == "multi-label" else row["label"]}
            for row in colour_rows(30)
        ]
        if problem == "regression":
            rows = [{**row, "label": number} for number, row in enumerate(rows)]
        evaluated = [{"text": "red", "label": value[problem]}]
        spec = _spec(
            problem=problem, training={**FAST, "epochs": 1}, evaluation={"baseline": False}
        )
        directory = make_run(
            tmp_path / problem, model=encoder, rows=rows, spec=spec, eval=evaluated
        )
        outcome = carry_out(directory)
        assert set(outcome.metrics) == defined, outcome.error
        assert {line.data["code"] for line in events_of(directory, "warning")} == {
            "metric_undefined"
        }


def test_long_rows_are_cut_and_counted(encoder: Path, tmp_path: Path) -> None:
    rows = [*colour_rows(30), {"text": "red " * 50, "label": "red"}]
    spec = _spec(max_length=32, data={"eval": None}, training={**FAST, "epochs": 1})
    directory = make_run(tmp_path / "run", model=encoder, rows=rows, spec=spec)
    carry_out(directory)
    (warning,) = events_of(directory, "warning")
    assert "1 of 31 train rows (3.2%) have more than 32 tokens" in warning.data["message"]


def test_more_tokens_than_the_model_has_positions_for_are_refused(
    encoder: Path, tmp_path: Path
) -> None:
    spec = _spec(max_length=65)
    directory = make_run(tmp_path / "run", model=encoder, rows=colour_rows(30), spec=spec)
    error = carry_out(directory).error
    assert error is not None
    assert (error.code, error.param) == ("invalid_spec", "/max_length")


def test_losses_are_those_of_torch() -> None:
    class Output:
        logits = torch.randn(6, 3, requires_grad=True)

    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    loss = single_label_loss(Output, labels, torch.tensor(6), smoothing=0.1)
    expected = torch.nn.functional.cross_entropy(Output.logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(loss, expected)
    with torch.no_grad():  # measuring is not smoothed
        loss = single_label_loss(Output, labels, torch.tensor(6), smoothing=0.1)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(Output.logits, labels))
    targets = torch.tensor([1.0, -100.0, 0.5, 2.0, 3.0, 4.0])
    loss = regression_loss(Output, targets, torch.tensor(6))
    torch.testing.assert_close(loss, torch.nn.functional.mse_loss(Output.logits[:, 0], targets))


def test_a_head_for_the_same_classes_keeps_their_order(encoder: Path, tmp_path: Path) -> None:
    first = make_run(tmp_path / "first", model=encoder, rows=colour_rows(120), spec=_spec())
    assert carry_out(first).metrics["accuracy"] > 0.95
    config = read_json(first.model / "config.json")
    swapped = {"0": "red", "1": "green", "2": "blue"}  # as another tool may have ordered them
    write_json(first.model / "config.json", {**config, "id2label": swapped})
    weights = load_file(first.model / "model.safetensors")
    for part in ("weight", "bias"):
        weights[f"classifier.{part}"] = weights[f"classifier.{part}"].flip(0).contiguous()
    save_file(weights, first.model / "model.safetensors", metadata={"format": "pt"})

    spec = _spec(training={**FAST, "learning_rate": 1e-9, "epochs": 1})
    again = make_run(tmp_path / "again", model=first.model, rows=colour_rows(120), spec=spec)
    assert carry_out(again).metrics["accuracy"] > 0.95  # it was not learnt again
    assert read_json(again.model / "config.json")["id2label"] == swapped


@pytest.mark.parametrize("adapter", [None, {"r": 4}])
def test_a_head_for_other_classes_begins_anew(
    encoder: Path, tmp_path: Path, adapter: dict[str, Any] | None
) -> None:
    first = make_run(tmp_path / "first", model=encoder, rows=colour_rows(120), spec=_spec())
    assert carry_out(first).metrics["accuracy"] > 0.95
    named = {"red": "rouge", "green": "vert", "blue": "bleu"}
    rows = [{**row, "label": named[row["label"]]} for row in colour_rows(120)]
    training = {**FAST, "learning_rate": 1e-9, "epochs": 1}
    spec = _spec(training=training, adapter=adapter)
    second = make_run(tmp_path / "second", model=first.model, rows=rows, spec=spec)
    assert carry_out(second).result is Result.SUCCEEDED
    (warning,) = [w.data for w in events_of(second, "warning") if w.data["code"] == "head_renewed"]
    assert "blue, green, red" in warning["message"]
    old, new = (load_file(run.model / "model.safetensors") for run in (first, second))
    assert not torch.allclose(old["classifier.weight"], new["classifier.weight"], atol=1e-3)
    assert new["classifier.bias"].abs().max() < 1e-3
    torch.testing.assert_close(
        old["bert.pooler.dense.weight"], new["bert.pooler.dense.weight"], rtol=0, atol=1e-4
    )
