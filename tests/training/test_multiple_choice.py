import json
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForMultipleChoice, AutoTokenizer

from tests.training.tiny import (
    COLOURS,
    WORDS,
    carry_out,
    events_of,
    make_run,
    measured_again,
    save_encoder,
    setup_for,
)
from trainer_core.run_directory import Outcome, Result, RunDirectory, read_json
from trainer_core.training.data.encoding import encode
from trainer_core.training.recipes.recipe import Measured, Recipe
from trainer_core.training.tasks.multiple_choice import ChoiceCollator, build, choice_loss

pytestmark = pytest.mark.slow

FAST = {"learning_rate": 3e-3, "batch_size": 16, "weight_decay": 0.0}
Trained = tuple[RunDirectory, Outcome]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("models") / "encoder", dropout=0.0)


def colour_choices(count: int, *, seed: int = 1, **extra: Any) -> list[dict[str, Any]]:
    """Return rows of two to five choices, the right one being the one that has a colour."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    rows = []
    for _ in range(count):
        words = [chance.choices(WORDS[3:], k=3) for _ in range(chance.randint(2, 5))]
        label = chance.randrange(len(words))
        words[label][chance.randrange(3)] = chance.choice(COLOURS)
        choices = [" ".join(choice) for choice in words]
        rows.append({"question": "is it", "choices": choices, "label": label, **extra})
    return rows


def _spec(**parts: Any) -> dict[str, Any]:
    return {"task": "multiple-choice", "training": {**FAST, "epochs": 6}, **parts}


@pytest.fixture(scope="module")
def trained(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    directory = make_run(
        tmp_path_factory.mktemp("choices") / "run",
        model=encoder,
        rows=colour_choices(240),
        spec=_spec(),
        test=colour_choices(60, seed=2),
    )
    return directory, carry_out(directory)


def test_rows_of_any_number_of_choices_are_learnt(trained: Trained) -> None:
    directory, outcome = trained
    assert outcome.result is Result.SUCCEEDED
    assert outcome.metrics["accuracy"] > 0.95
    assert outcome.metrics["test_accuracy"] > 0.95

    model: Any = AutoModelForMultipleChoice.from_pretrained(directory.model)
    tokenizer: Any = AutoTokenizer.from_pretrained(directory.model)
    losses, right = [], []
    for row in colour_choices(60, seed=2):  # one by one, without a choice that fills up
        texts = [row["question"]] * len(row["choices"])
        inputs = tokenizer(texts, row["choices"], padding=True, return_tensors="pt")
        with torch.no_grad():
            output = model(
                **{name: tensor[None] for name, tensor in inputs.items()},
                labels=torch.tensor([row["label"]]),
            )
        losses.append(float(output.loss))
        right.append(int(output.logits.argmax()) == row["label"])
    assert np.mean(right) == pytest.approx(outcome.metrics["test_accuracy"])
    assert np.mean(losses) == pytest.approx(outcome.metrics["test_loss"], rel=1e-4, abs=1e-6)


def test_usage_chooses(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    directory, _ = trained
    card = (directory.model / "README.md").read_text()
    assert "pipeline_tag: multiple-choice" in card
    code = card.partition("```python\n")[2].partition("```")[0]
    code = code.replace("path/to/this/folder", str(directory.model))
    for text, other in (
        ("Where is Oslo?", "is it"),
        ("in Norway", "old round new"),
        ("in Sweden", "old green new"),
    ):
        assert text in code
        code = code.replace(text, other)
    capsys.readouterr()
    exec(code, {})  # noqa: S102 - it is what users are told to run
    assert capsys.readouterr().out.strip() == "old green new"


def test_a_head_for_choices_is_kept(trained: Trained, tmp_path: Path) -> None:
    spec = _spec(training={**FAST, "learning_rate": 1e-9, "epochs": 1})
    rows = colour_choices(60, seed=3)
    again = make_run(tmp_path / "run", model=trained[0].model, rows=rows, spec=spec)
    assert carry_out(again).metrics["accuracy"] > 0.95  # it was not learnt again


@pytest.mark.parametrize("output", ["merged", "adapter"])
def test_an_adapter_learns_with_a_new_head(encoder: Path, tmp_path: Path, output: str) -> None:
    spec = _spec(
        adapter={"r": 8, "output": output}, training={**FAST, "learning_rate": 1e-2, "epochs": 6}
    )
    directory = make_run(tmp_path / "run", model=encoder, rows=colour_choices(160), spec=spec)
    outcome = carry_out(directory)
    assert outcome.metrics["accuracy"] > 0.9
    if output == "merged":
        merged = AutoModelForMultipleChoice.from_pretrained(directory.model)
        found = measured_again(directory, base=encoder, model=merged, build=build)
        assert found == pytest.approx({name: outcome.metrics[name] for name in found}, abs=1e-4)
        return
    from peft import PeftModel

    model = AutoModelForMultipleChoice.from_pretrained(encoder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft's, of a name in transformers
        adapted = PeftModel.from_pretrained(model, str(directory.model))
    assert "modules_to_save" in str(adapted.base_model.model.classifier)


def test_the_context_is_cut_and_no_choice(encoder: Path, tmp_path: Path) -> None:
    long = "small round " * 40
    rows = [*colour_choices(20, context=""), *colour_choices(20, seed=4, context=long)]
    rows.append({"context": "a", "question": long, "choices": ["red", "cold"], "label": "A"})
    rows.append({"question": "a", "choices": ["red", long], "label": "red"})
    spec = _spec(max_length=24, data={"eval": None}, training={**FAST, "epochs": 1})
    directory = make_run(tmp_path / "run", model=encoder, rows=rows, spec=spec)
    recipe = _recipe_for(directory, base=encoder)
    kept = recipe.rows["train"]
    assert kept.values("row").tolist() == list(range(40))
    tokenizer: Any = AutoTokenizer.from_pretrained(encoder)
    for number in range(40):
        row, given = kept[number], rows[number]
        ends = np.cumsum(row["num_tokens"])
        for ids, choice in zip(
            np.split(row["input_ids"], ends[:-1]), given["choices"], strict=True
        ):
            text = tokenizer.decode(ids)
            assert len(ids) <= 24
            if given["context"]:
                assert text.startswith("[CLS] small round small round")
                assert text.endswith(f"[SEP] is it {choice} [SEP]")
            else:
                assert text == f"[CLS] is it [SEP] {choice} [SEP]"

    assert carry_out(directory).result is Result.SUCCEEDED
    told = {line.data["code"]: line.data["message"] for line in events_of(directory, "warning")}
    assert "2 of 42 train rows are left out" in told["rows_left_out"]
    assert "20 of 42 train rows" in told["rows_truncated"]
    lineage = read_json(directory.lineage)
    assert (lineage["num_rows"]["train"], lineage["num_rows_left_out"]) == (40, {"train": 2})


def test_choices_that_fit_nowhere_are_an_error(encoder: Path, tmp_path: Path) -> None:
    rows = [{"question": "a", "choices": ["red " * 40, "old"], "label": 0}] * 20
    spec = _spec(max_length=24)
    outcome = carry_out(make_run(tmp_path / "run", model=encoder, rows=rows, spec=spec))
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.param) == ("too_few_rows", "/max_length")


def test_predictions_are_a_row_a_row(trained: Trained) -> None:
    directory, _ = trained
    recipe = _recipe_for(directory, base=directory.model)
    rows = recipe.rows["train"]
    batch = recipe.collate([rows[number] for number in range(len(rows))])
    with torch.no_grad():
        _, output = recipe.forward_loss(recipe.model.eval(), batch, torch.tensor(len(rows)))
    assert recipe.predictions is not None
    told = list(recipe.predictions(Measured("train", rows, list(output.logits.numpy()))))
    asked = [json.loads(text) for text in (directory.path / "train.jsonl").read_text().splitlines()]
    assert json.loads(json.dumps(told)) == told
    assert len(told) == len(asked)
    for row, given in zip(told, asked, strict=True):
        assert given["choices"][row["choice"]] == row["text"]
        assert 1 / len(given["choices"]) <= row["probability"] <= 1
    right = [row["choice"] == given["label"] for row, given in zip(told, asked, strict=True)]
    assert np.mean(right) > 0.95


def _recipe_for(directory: RunDirectory, *, base: Path) -> Recipe:
    """Return the recipe of a run for all of its training rows."""
    given = directory.read_spec()
    data = {"train": given["data"]["train"], "eval": None}
    spec = {**given, "data": data, "max_length": given.get("max_length", 64)}
    return build(setup_for(directory, base=base, spec=spec))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_that_of_torch_over_each_rows_own_choices(smoothing: float) -> None:
    class Output:
        logits = torch.randn(3, 4, requires_grad=True)

    labels = torch.tensor([[0, 1, -100, -100], [1, 0, 0, 0], [0, 0, 1, -100]])
    loss = choice_loss(Output, labels, torch.tensor(3), smoothing=smoothing)
    expected = [
        torch.nn.functional.cross_entropy(
            Output.logits[row, :number], torch.tensor(right), label_smoothing=smoothing
        )
        for row, number, right in ((0, 2, 1), (1, 4, 0), (2, 3, 2))
    ]
    torch.testing.assert_close(loss, torch.stack(expected).mean())
    loss.backward()
    assert Output.logits.grad is not None
    assert Output.logits.grad.isfinite().all()
    assert not Output.logits.grad[0, 2:].any()


def test_who_shares_a_batch_does_not_change_the_scores(encoder: Path) -> None:
    model: Any = AutoModelForMultipleChoice.from_pretrained(encoder).eval()
    collate = ChoiceCollator(pad_token_id=0, has_token_types=True)
    rows = [
        {
            "input_ids": np.arange(4, 4 + sum(lengths)),
            "token_type_ids": np.zeros(sum(lengths), dtype=np.int8),
            "num_tokens": np.array(lengths),
            "labels": np.array([1]),
        }
        for lengths in ([3, 4], [2, 5, 4])
    ]
    both = collate(rows)
    assert both["input_ids"].shape == (2, 3, 5)
    assert both["labels"].tolist() == [[0, 1, -100], [0, 1, 0]]
    alone = collate(rows[:1])
    with torch.no_grad():
        scores = [
            model(**{name: part for name, part in batch.items() if name != "labels"}).logits
            for batch in (both, alone)
        ]
    assert scores[0].isfinite().all()
    torch.testing.assert_close(scores[0][:1, :2], scores[1], rtol=1e-5, atol=1e-6)


def test_the_first_text_of_a_pair_alone_can_be_cut(encoder: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(encoder)
    pairs = [("red green blue", "old new cold warm a is it"), ("red", "blue")]
    cut, whole = encode(tokenizer, pairs, max_length=11, cut="only_first")
    assert tokenizer.decode(cut.ids) == "[CLS] red [SEP] old new cold warm a is it [SEP]"
    assert (cut.is_truncated, whole.is_truncated) == (True, False)
