import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

from tests.training.tiny import (
    COLOURS,
    WORDS,
    carry_out,
    events_of,
    make_run,
    save_decoder,
    save_encoder,
    setup_for,
)
from trainer_core.run_directory import Result, RunDirectory, read_json, write_json
from trainer_core.training.recipes.recipe import Measured, Recipe
from trainer_core.training.recipes.token_losses import TokenLoss
from trainer_core.training.tasks.token_classification import build

pytestmark = pytest.mark.slow

FAST = {"learning_rate": 3e-3, "batch_size": 16, "weight_decay": 0.0}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("models") / "encoder", dropout=0.0)


def sentences(count: int, *, seed: int = 1) -> list[dict[str, Any]]:
    """Return words of which a colour is an entity, with a `square` that comes after it."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    rows = []
    for _ in range(count):
        plain = [word for word in WORDS if word not in (*COLOURS, "square")]
        words, tags = [], []
        for _ in range(chance.randint(2, 6)):
            kind = chance.randrange(4)
            words += [chance.choice(plain if kind < 2 else COLOURS), *["square"] * (kind == 3)]
            tags += [["O"], ["O"], ["B-HUE"], ["B-HUE", "I-HUE"]][kind]
        rows.append({"tokens": words, "tags": tags})
    return rows


def as_spans(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of words and tags as a text with spans."""
    spans: list[dict[str, Any]] = []
    text = ""
    for word, tag in zip(row["tokens"], row["tags"], strict=True):
        start = len(text) + bool(text)
        text = f"{text} {word}".strip()
        if tag.startswith("B-"):
            spans.append({"start": start, "end": len(text), "label": tag[2:]})
        elif tag.startswith("I-"):
            spans[-1]["end"] = len(text)
    return {"text": text, "spans": spans}


def _spec(**parts: Any) -> dict[str, Any]:
    return {"task": "token-classification", "training": {**FAST, "epochs": 12}, **parts}


@pytest.fixture(scope="module")
def tagged(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return make_run(
        tmp_path_factory.mktemp("tagged") / "run",
        model=encoder,
        rows=sentences(200),
        spec=_spec(),
        test=sentences(60, seed=2),
    )


@pytest.fixture(scope="module")
def learnt(tagged: RunDirectory) -> dict[str, float]:
    outcome = carry_out(tagged)
    assert outcome.result is Result.SUCCEEDED, outcome.error
    return dict(outcome.metrics)


def test_entities_are_learnt_and_the_saved_model_finds_the_same(
    tagged: RunDirectory, learnt: dict[str, float]
) -> None:
    assert learnt["test_f1"] > 0.95
    assert set(learnt) == {
        f"{split}{name}"
        for split in ("", "baseline_", "test_")
        for name in ("f1", "precision", "recall", "accuracy", "loss")
    }
    model = AutoModelForTokenClassification.from_pretrained(tagged.model)
    tokenizer = AutoTokenizer.from_pretrained(tagged.model)
    assert model.config.id2label == {0: "O", 1: "B-HUE", 2: "I-HUE"}
    losses, are_right = [], []
    for row in sentences(60, seed=2):
        inputs = tokenizer(row["tokens"], is_split_into_words=True, return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits[0, 1:-1]  # each word of this model is one token
        target = torch.tensor([model.config.label2id[tag] for tag in row["tags"]])
        losses.append(torch.nn.functional.cross_entropy(logits, target, reduction="none"))
        are_right.append(logits.argmax(-1) == target)
    assert float(torch.cat(losses).mean()) == pytest.approx(learnt["test_loss"], rel=1e-4)
    assert float(torch.cat(are_right).float().mean()) == pytest.approx(learnt["test_accuracy"])


def test_the_usage_of_the_card_runs_and_finds_what_was_learnt(
    tagged: RunDirectory, learnt: dict[str, float]
) -> None:
    card = (tagged.model / "README.md").read_text()
    code = card.partition("```python\n")[2].partition("```")[0]
    code = code.replace("path/to/this/folder", str(tagged.model))
    code = code.replace("A text in which to find something", "it is red square a cold blue")
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        # Of any tokenizer without a prefix for the later parts of a word, such as byte-level ones.
        warnings.filterwarnings("ignore", "Tokenizer does not support real words")
        exec(code, names)  # noqa: S102
        found = names["tag"]("it is red square a cold blue")
    assert [(each["entity_group"], each["word"]) for each in found] == [
        ("HUE", "red square"),
        ("HUE", "blue"),
    ]


def test_spans_are_learnt_and_found_with_their_text(encoder: Path, tmp_path: Path) -> None:
    rows, tested = ([as_spans(row) for row in part] for part in (sentences(200), sentences(60)))
    directory = make_run(tmp_path / "run", model=encoder, rows=rows, spec=_spec(), test=tested)
    outcome = carry_out(directory)
    assert outcome.metrics["test_f1"] > 0.95
    assert read_json(directory.model / "config.json")["id2label"] == {
        "0": "O",
        "1": "B-HUE",
        "2": "I-HUE",
    }
    tag = pipeline(
        "token-classification", model=str(directory.model), aggregation_strategy="simple"
    )
    found: Any = tag(tested[0]["text"])
    assert [(each["start"], each["end"]) for each in found] == [
        (span["start"], span["end"]) for span in tested[0]["spans"]
    ]


def _built(folder: Path, model: Path, rows: list[dict[str, Any]], **parts: Any) -> Recipe:
    """Return the recipe for rows, of which the first ten are evaluated too."""
    directory = make_run(
        folder, model=model, rows=rows, spec=_spec(max_length=16, **parts), eval=rows[:10]
    )
    return build(setup_for(directory, base=model, spec=directory.read_spec()))


def _guessed_right(recipe: Recipe) -> Measured:
    """Return the right guess for each unit that has a token, and the class 1 for other tokens."""
    rows = recipe.rows["eval"]
    predictions = [np.ones((length, 2), dtype=np.float32) for length in rows.lengths]
    for number, guesses in enumerate(predictions):
        units = rows[number]
        has_token = units["unit_tokens"] >= 0
        guesses[units["unit_tokens"][has_token], 0] = units["unit_tags"][has_token]
    return Measured("eval", rows, predictions)


def test_words_that_are_cut_or_become_no_token_count_as_missed(tmp_path: Path) -> None:
    decoder = save_decoder(tmp_path / "decoder")
    rows = [
        {"tokens": ["a", "", " ", "red", "\u2028 ", "blue"], "tags": ["O", *["B-X"] * 5]},
        {"tokens": ["a"] * 20, "tags": ["B-X"] * 20},
        *({"tokens": ["a", "red"], "tags": ["O", "B-X"]} for _ in range(10)),
    ]
    recipe = _built(tmp_path / "run", decoder, rows)
    first, second, third = (recipe.rows["eval"][number] for number in range(3))
    tokenizer = recipe.tokenizer
    assert first["unit_tokens"].tolist()[1:3] == [-1, -1]
    assert first["unit_tokens"][4] == -1
    assert tokenizer.decode(first["input_ids"]) == "a red blue"
    assert third["unit_tags"].tolist() == [0, 1]

    # All that has a token is found: of the words without one each is an entity that is missed.
    assert second["unit_tokens"].min() == -1
    measured = _guessed_right(recipe)
    num_lost = 3 + int((second["unit_tokens"] == -1).sum())
    num_entities = 5 + 20 + 8
    metrics = recipe.measure(measured)
    assert metrics["precision"] == 1.0
    assert metrics["recall"] == pytest.approx((num_entities - num_lost) / num_entities)
    assert recipe.details is not None
    assert recipe.details(measured)["num_units_without_token"] == num_lost
    assert recipe.predictions is not None
    assert next(iter(recipe.predictions(measured))) == {"tags": ["O", "O", "O", "B-X", "O", "B-X"]}
    labels = recipe.collate([first, third])["labels"]
    assert labels.ne(-100).sum() == recipe.count_targets({"labels": labels}) == 3 + 2


def test_spans_that_do_not_fit_the_tokens_are_of_all_that_they_touch(
    encoder: Path, tmp_path: Path
) -> None:
    # The tokenizer's tokens are whole words; it makes nothing of a zero-width space.
    rows = [
        {
            "text": "is  redblue cold old",
            "spans": [{"start": 4, "end": 7, "label": "X"}, {"start": 12, "end": 20, "label": "Y"}],
        },
        {"text": "is \u2028 it", "spans": []},
        *({"text": "a red", "spans": [{"start": 2, "end": 5, "label": "X"}]} for _ in range(10)),
    ]
    recipe = _built(tmp_path / "run", encoder, rows)
    classes = list(recipe.classes)
    assert classes == ["O", "B-X", "B-Y", "I-X", "I-Y"]
    units = recipe.rows["eval"][0]
    assert [classes[tag] for tag in units["unit_tags"]] == ["O", "B-X", "B-Y", "I-Y"]
    assert units["unit_starts"].tolist() == [0, 4, 12, 17]
    assert recipe.predictions is not None
    found = list(recipe.predictions(_guessed_right(recipe)))
    assert found[0] == {
        "spans": [
            {"start": 4, "end": 11, "label": "X", "text": "redblue"},
            {"start": 12, "end": 20, "label": "Y", "text": "cold old"},
        ]
    }
    assert found[1] == {"spans": []}
    assert found[2] == {"spans": [{"start": 2, "end": 5, "label": "X", "text": "red"}]}


def test_the_loss_is_that_of_torch_over_all_tokens_of_the_step() -> None:
    class Output:
        logits = torch.randn(3, 5, 4, requires_grad=True)

    labels = torch.randint(4, (3, 5))
    labels[0, 2:] = labels[2] = -100
    flat = Output.logits.flatten(0, 1), labels.flatten()
    num_tokens = labels.ne(-100).sum()
    loss = TokenLoss(smoothing=0.1)(Output, labels, num_tokens)
    torch.testing.assert_close(
        loss, torch.nn.functional.cross_entropy(*flat, label_smoothing=0.1), rtol=1e-5, atol=1e-6
    )
    with torch.no_grad():  # measuring is not smoothed
        loss = TokenLoss(smoothing=0.1)(Output, labels, num_tokens)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(*flat))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # of peft 0.21
def test_an_adapter_learns_with_its_new_head(encoder: Path, tmp_path: Path) -> None:
    training = {**FAST, "learning_rate": 2e-2, "epochs": 8}
    spec = _spec(training=training, adapter={"r": 8})
    directory = make_run(tmp_path / "run", model=encoder, rows=sentences(200), spec=spec)
    assert carry_out(directory).metrics["f1"] > 0.9
    model: Any = AutoModelForTokenClassification.from_pretrained(directory.model)
    assert model.config.num_labels == 3


def test_a_head_is_kept_for_the_same_tags_and_begins_anew_for_others(
    tagged: RunDirectory, learnt: dict[str, float], tmp_path: Path
) -> None:
    training = {**FAST, "learning_rate": 1e-9, "epochs": 1}
    same = make_run(
        tmp_path / "same", model=tagged.model, rows=sentences(80), spec=_spec(training=training)
    )
    assert carry_out(same).metrics["f1"] > 0.95  # it was not learnt again
    others = [
        {**row, "tags": [tag.replace("HUE", "COLOUR") for tag in row["tags"]]}
        for row in sentences(80)
    ]
    renewed = make_run(
        tmp_path / "renewed", model=tagged.model, rows=others, spec=_spec(training=training)
    )
    carry_out(renewed)
    assert "head_renewed" in {line.data["code"] for line in events_of(renewed, "warning")}


def test_classes_of_words_are_judged_word_by_word(encoder: Path, tmp_path: Path) -> None:
    rows = [
        {
            "tokens": row["tokens"],
            "tags": ["NAME" if word in COLOURS else "WORD" for word in row["tokens"]],
        }
        for row in sentences(120)
    ]
    directory = make_run(tmp_path / "run", model=encoder, rows=rows, spec=_spec(), test=rows[:9])
    outcome = carry_out(directory)
    assert outcome.metrics["accuracy"] > 0.95
    assert outcome.metrics["f1"] > 0.9


def test_files_of_words_and_tags_are_trained_on(encoder: Path, tmp_path: Path) -> None:
    directory = make_run(tmp_path / "run", model=encoder, rows=[], spec=_spec())
    lines = [
        "".join(f"{word}\t{tag}\n" for word, tag in zip(row["tokens"], row["tags"], strict=True))
        for row in sentences(40)
    ]
    (directory.path / "words.conll").write_text("\n".join(lines))
    inputs = read_json(directory.inputs)
    inputs["train"] |= {"path": str(directory.path / "words.conll"), "name": "words.conll"}
    write_json(directory.inputs, inputs)
    assert carry_out(directory).result is Result.SUCCEEDED
    assert read_json(directory.lineage)["num_rows"]["train"] == 36


def test_a_tokenizer_that_can_not_place_its_tokens_is_refused(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.PreTrainedTokenizerFast.is_fast", False)
    directory = make_run(tmp_path / "run", model=encoder, rows=sentences(40), spec=_spec())
    error = carry_out(directory).error
    assert error is not None
    assert error.code == "unusable_model"
    assert "fast tokenizer" in (error.hint or "")
