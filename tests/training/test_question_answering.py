import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from tests.training.tiny import (
    COLOURS,
    WORDS,
    carry_out,
    chat_tokenizer,
    events_of,
    make_run,
    measured_again,
    save_decoder,
    save_encoder,
    setup_for,
)
from trainer_core.run_directory import Outcome, Result, RunDirectory, read_json
from trainer_core.training.data.spans import best_spans, choose_answer, span_loss
from trainer_core.training.data.tokens import TokenizedRows
from trainer_core.training.data.windows import cut_texts, make_windows
from trainer_core.training.metrics.squad import best_f1, exact_match, score_answers
from trainer_core.training.recipes.recipe import Measured, Recipe
from trainer_core.training.tasks.question_answering import build

pytestmark = pytest.mark.slow

FAST = {"learning_rate": 3e-3, "batch_size": 16, "weight_decay": 0.0}
SHORT = {"max_length": 32, "doc_stride": 8, "max_question_length": 8}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("models") / "encoder", dropout=0.0)


def colour_questions(
    count: int, *, seed: int = 1, num_words: int = 8, share_without: float = 0.0
) -> list[dict[str, Any]]:
    """Return texts of a few words, the answer being the one colour among them, if there is one."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    rows = []
    for _ in range(count):
        words = chance.choices(WORDS[3:], k=chance.randint(1, num_words))
        answers = []
        if chance.random() >= share_without:
            place = chance.randint(0, len(words))
            colour = chance.choice(COLOURS)
            start = len(" ".join([*words[:place], ""]))
            words.insert(place, colour)
            answers = [{"text": colour, "answer_start": start}]
        rows.append({"context": " ".join(words), "question": "is it", "answers": answers})
    return rows


def _spec(**parts: Any) -> dict[str, Any]:
    return {"task": "question-answering", "training": {**FAST, "epochs": 4}, **SHORT, **parts}


Trained = tuple[RunDirectory, Outcome]


@pytest.fixture(scope="module")
def in_windows(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run on contexts of up to 60 words, in windows of 32 tokens."""
    directory = make_run(
        tmp_path_factory.mktemp("windows") / "run",
        model=encoder,
        rows=colour_questions(200, num_words=60),
        spec=_spec(),
        test=colour_questions(40, num_words=60, seed=2),
    )
    return directory, carry_out(directory)


@pytest.fixture(scope="module")
def with_none(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run on questions of which some have no answer."""
    directory = make_run(
        tmp_path_factory.mktemp("none") / "run",
        model=encoder,
        rows=colour_questions(240, num_words=30, share_without=0.4),
        spec=_spec(has_no_answers=True, training={**FAST, "epochs": 6}),
    )
    return directory, carry_out(directory)


def _run_usage(directory: RunDirectory, capsys: pytest.CaptureFixture[str], **texts: str) -> str:
    """Return what the card's lines print for a question and a context."""
    card = (directory.model / "README.md").read_text()
    code = card.partition("```python\n")[2].partition("```")[0]
    code = code.replace("path/to/this/folder", str(directory.model))
    for text, other in (("Where is Oslo?", "question"), ("Oslo is in Norway.", "context")):
        assert text in code
        code = code.replace(text, texts[other])
    capsys.readouterr()
    exec(code, {})  # noqa: S102 - it is what users are told to run
    return capsys.readouterr().out.strip()


def test_answers_in_long_contexts_are_learnt(in_windows: Trained) -> None:
    _, outcome = in_windows
    assert outcome.result is Result.SUCCEEDED
    assert set(outcome.metrics) >= {"f1", "exact_match", "loss", "test_f1"}
    assert outcome.metrics["f1"] > 0.9
    assert outcome.metrics["test_f1"] > 0.9
    assert outcome.metrics["test_f1"] == outcome.metrics["test_exact_match"]  # answers of one word


def test_rows_are_counted_not_their_windows(in_windows: Trained) -> None:
    directory, _ = in_windows
    lineage = read_json(directory.lineage)
    assert lineage["num_rows"] == {"train": 180, "eval": 20, "test": 40}
    assert not any(lineage["num_rows_left_out"].values())
    assert (
        "180 rows (20 for eval, 40 for test held out)"
        in (directory.model / "README.md").read_text()
    )
    (batches,) = [
        line.data for line in events_of(directory, "log") if "num_tokens" in line.data["fields"]
    ]
    assert batches["fields"]["num_rows"] == 180
    assert batches["fields"]["num_examples"] > 300


def test_usage_answers_a_question(in_windows: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    context = "a small round new green old it is"
    assert _run_usage(in_windows[0], capsys, question="is it", context=context) == "green"


def test_no_answer_is_learnt_and_told(
    with_none: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, outcome = with_none
    assert outcome.metrics["has_answer_f1"] > 0.9
    assert outcome.metrics["no_answer_accuracy"] > 0.8
    texts = {"question": "is it", "context": "a small round new green old"}
    assert _run_usage(directory, capsys, **texts) == "green"
    texts["context"] = "a small round new old"
    assert _run_usage(directory, capsys, **texts) == "no answer"


def test_predictions_are_a_row_a_question(with_none: Trained, tmp_path: Path) -> None:
    directory, _ = with_none
    recipe, rows = _recipe_for(directory)
    batch = recipe.collate([rows[number] for number in range(len(rows))])
    with torch.no_grad():
        _, output = recipe.forward_loss(recipe.model.eval(), batch, torch.tensor(len(rows)))
        spans = recipe.predict(recipe.model, batch, output).numpy()
    assert recipe.predictions is not None
    train = directory.path / "train.jsonl"
    asked = [json.loads(line) for line in train.read_text().splitlines()]
    away = train.rename(tmp_path / train.name)  # what measuring needs is kept with the tokens
    measured = Measured("train", rows, list(spans))
    told = list(recipe.predictions(measured))
    assert recipe.measure(measured)["f1"] > 0.8
    away.rename(train)
    assert len(told) == len(asked) < len(rows)
    assert json.loads(json.dumps(told)) == told
    unanswered = [row for row in told if not row["text"]]
    assert 0 < len(unanswered) < len(told)
    assert all(row["start"] is None and row["null_score"] > row["score"] for row in unanswered)
    for row, given in zip(told, asked, strict=True):
        if row["text"]:
            assert given["context"][row["start"] : row["end"]] == row["text"]


def _recipe_for(directory: RunDirectory) -> tuple[Recipe, TokenizedRows]:
    """Return the recipe of a run's finished model, for all of its training rows."""
    spec = read_json(directory.resolved)["spec"]
    spec = {**spec, "data": {**spec["data"], "eval": None}}
    recipe = build(setup_for(directory, base=directory.model, spec=spec))
    return recipe, recipe.rows["train"]


def test_a_head_for_answers_is_kept(in_windows: Trained, tmp_path: Path) -> None:
    spec = _spec(training={**FAST, "learning_rate": 1e-9, "epochs": 1})
    rows = colour_questions(60, num_words=30, seed=3)
    again = make_run(tmp_path / "run", model=in_windows[0].model, rows=rows, spec=spec)
    assert carry_out(again).metrics["f1"] > 0.9  # it was not learnt again


@pytest.fixture(scope="module")
def adapted(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run of an adapter, merged at its end."""
    spec = _spec(adapter={"r": 8}, training={**FAST, "learning_rate": 1e-2, "epochs": 10})
    folder = tmp_path_factory.mktemp("adapted") / "run"
    directory = make_run(folder, model=encoder, rows=colour_questions(200), spec=spec)
    return directory, carry_out(directory)


def test_the_loss_is_the_same_in_batches_of_any_size(encoder: Path, tmp_path: Path) -> None:
    losses = []
    for size in (3, 16):
        spec = _spec(training={**FAST, "max_steps": 1}, evaluation={"batch_size": size})
        rows = colour_questions(90, num_words=40)
        outcome = carry_out(make_run(tmp_path / str(size), model=encoder, rows=rows, spec=spec))
        losses.append(outcome.metrics["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_an_adapter_learns_with_a_new_head(adapted: Trained) -> None:
    assert adapted[1].metrics["f1"] > 0.9


def test_a_merged_adapter_is_the_model_that_was_measured(encoder: Path, adapted: Trained) -> None:
    directory, outcome = adapted
    merged = AutoModelForQuestionAnswering.from_pretrained(directory.model)
    found = measured_again(directory, base=encoder, model=merged, build=build)
    assert found == pytest.approx({name: outcome.metrics[name] for name in found}, abs=1e-4)


def test_a_body_that_its_class_can_not_find_is_refused(tmp_path: Path) -> None:
    # transformers' class looks for a Llama's body under another name, and would begin anew.
    decoder = save_decoder(tmp_path / "decoder")
    rows = colour_questions(20, num_words=4)
    outcome = carry_out(
        make_run(tmp_path / "run", model=decoder, rows=rows, spec=_spec(max_length=96))
    )
    assert outcome.error is not None
    assert outcome.error.code == "unusable_model"


@pytest.mark.parametrize(
    ("sizes", "spoken"),
    [
        ({}, "max_length (64) must be larger"),  # 64 positions, of which 128 are to be shared
        ({**SHORT, "doc_stride": 23}, "leaves 17 to the context"),  # [CLS] and twice [SEP], too
    ],
)
def test_windows_without_room_to_move_on_are_refused(
    encoder: Path, tmp_path: Path, sizes: dict[str, int], spoken: str
) -> None:
    spec = {"task": "question-answering", **sizes}
    directory = make_run(tmp_path / "run", model=encoder, rows=colour_questions(20), spec=spec)
    outcome = carry_out(directory)
    assert outcome.error is not None
    assert outcome.error.code == "invalid_spec"
    assert spoken in outcome.error.message


def test_what_can_not_be_learnt_as_given_is_told(encoder: Path, tmp_path: Path) -> None:
    rows = colour_questions(20, num_words=40)
    long = "small round " * 30
    rows.append(
        {"context": long, "question": long, "answers": {"text": long[:-1], "answer_start": 0}}
    )
    rows.append(
        {"context": long, "question": "a", "answers": {"text": long[:99], "answer_start": 0}}
    )
    spec = _spec(data={"eval": None}, max_answer_length=5, training={**FAST, "epochs": 1})
    directory = make_run(tmp_path / "run", model=encoder, rows=rows, spec=spec)
    carry_out(directory)
    told = {line.data["code"]: line.data["message"] for line in events_of(directory, "warning")}
    assert "1 of 22 train rows" in told["questions_truncated"]
    assert "1 of 22 train rows" in told["answers_lost"]
    assert "1 of 22 train rows" in told["answers_too_long"]


def test_loss_is_the_models_own_and_padding_does_not_matter(encoder: Path) -> None:
    model: Any = AutoModelForQuestionAnswering.from_pretrained(encoder)
    ids = torch.randint(4, 16, (3, 12))
    span = torch.tensor([[1, 2], [0, 0], [5, 11]])
    output = model(ids, start_positions=span[:, 0], end_positions=span[:, 1])
    is_padding = torch.zeros(3, 12, dtype=torch.bool)
    loss = span_loss(output.start_logits, output.end_logits, span, is_padding_BT=is_padding)
    torch.testing.assert_close(loss / 3, output.loss)

    mask = torch.ones(3, 20, dtype=torch.long)
    mask[:, 12:] = 0
    padded = model(torch.nn.functional.pad(ids, (0, 8)), attention_mask=mask)
    again = span_loss(padded.start_logits, padded.end_logits, span, is_padding_BT=mask.eq(0))
    torch.testing.assert_close(again, loss, rtol=1e-5, atol=1e-5)


def test_best_span_is_that_of_trying_them_all() -> None:
    torch.manual_seed(0)
    starts, ends = torch.randn(5, 17), torch.randn(5, 17)
    is_context = torch.rand(5, 17) > 0.3
    is_context[4] = False
    found = best_spans(starts, ends, is_context, max_tokens=4)
    for row in range(4):
        score, first, last = max(
            (float(starts[row, i] + ends[row, j]), i, j)
            for i in range(17)
            for j in range(i, min(i + 4, 17))
            if is_context[row, i] and is_context[row, j]
        )
        assert [float(part[row]) for part in found] == [pytest.approx(score), first, last]
    assert found[0][4] == -torch.inf
    _, first, last = best_spans(starts, ends, is_context, max_tokens=999)
    assert (first <= last).all()


def test_the_best_window_answers_and_the_least_says_that_there_is_none() -> None:
    import numpy as np

    places = [np.array([[-1, -1], [0, 4]]), np.array([[-1, -1], [4, 9]])]
    spans = np.array([[5.0, 1.0, 1, 1], [2.0, 3.0, 1, 1]], dtype=np.float32)
    answer = choose_answer("Oslo here", spans, places.__getitem__, null_threshold=0.0)
    assert (answer.text, answer.start, answer.end, answer.score) == ("here", 5, 9, 3.0)
    spans[1, 0] = 3.5
    none = choose_answer("Oslo here", spans, places.__getitem__, null_threshold=0.0)
    assert (none.text, none.start, none.null_score) == ("", None, 3.5)
    for threshold in (0.6, None):
        found = choose_answer("Oslo here", spans, places.__getitem__, null_threshold=threshold)
        assert found.text == "here"


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_windows_have_every_answer_at_its_place(encoder: Path, kind: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(encoder) if kind == "encoder" else chat_tokenizer()
    rows = colour_questions(30, num_words=60)
    pairs = [(row["question"], row["context"]) for row in rows]
    for row, windows in zip(
        rows, make_windows(tokenizer, pairs, max_length=40, stride=10), strict=True
    ):
        context, answer = row["context"], row["answers"][0]
        seen = set()
        num_whole = 0
        for window in windows:
            assert len(window.ids) <= 40
            assert len(window.ids) == len(window.places) == len(window.type_ids)
            for start, end in window.places[window.places[:, 0] >= 0]:
                seen |= set(range(start, end))
            start = answer["answer_start"]
            if place := window.find(start, start + len(answer["text"])):
                num_whole += 1
                text = context[window.places[place[0], 0] : window.places[place[1], 1]]
                assert text.strip() == answer["text"]
        assert num_whole >= 1
        assert {n for n, c in enumerate(context) if c != " "} <= seen


def test_questions_are_cut_behind_a_token(encoder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    assert cut_texts(tokenizer, ["red  green blue", "a"], max_tokens=2) == ["red  green", "a"]


# By hand, after the papers' rules: lower case, no punctuation, articles or doubled spaces.
@pytest.mark.parametrize(
    ("guess", "answers", "exact", "f1"),
    [
        ("The  Eiffel-Tower!", ["eiffeltower"], 1, 1),
        ("in the city of Oslo", ["Oslo", "city of Oslo"], 0, 6 / 7),  # in city of oslo: 3 of 4
        ("Oslo Oslo", ["Oslo"], 0, 2 / 3),
        ("Bergen", ["Oslo"], 0, 0),
        ("", [], 1, 1),
        ("Oslo", [], 0, 0),
        ("", ["Oslo"], 0, 0),
        ("the", ["a"], 1, 1),  # nothing is left of either
    ],
)
def test_answers_are_compared_as_squad_does(
    guess: str, answers: list[str], exact: float, f1: float
) -> None:
    assert exact_match(guess, answers) == exact
    assert best_f1(guess, answers) == pytest.approx(f1)


def test_kinds_of_questions_are_scored_apart() -> None:
    found = score_answers(["Oslo", "", "Bergen"], [["Oslo"], [], []])
    assert found == {
        "f1": pytest.approx(2 / 3),
        "exact_match": pytest.approx(2 / 3),
        "has_answer_f1": 1.0,
        "no_answer_accuracy": 0.5,
    }
    assert set(score_answers(["a"], [["a"]])) == {"f1", "exact_match", "has_answer_f1"}
