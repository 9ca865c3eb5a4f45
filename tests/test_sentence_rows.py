"""Rows of sentence embedding: which form they have, and what is said of those that don't fit."""

import json

import pytest

from trainer_core.errors import InvalidRows, InvalidSpec, UnknownColumn
from trainer_core.rows.checking import rows_of, survey
from trainer_core.rows.files import InputFile
from trainer_core.spec import parse_spec, unused

PAIR = {"anchor": "q", "positive": "a"}


def spec_of(*, columns=None, **changes):
    data = {"train": "dataset:ds_0123456789ab", "eval": None, "columns": columns or {}}
    return parse_spec({"task": "sentence-embedding", "model": "model:m", "data": data, **changes})


@pytest.fixture
def write(tmp_path):
    def write(rows):
        path = tmp_path / "train.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return {"train": InputFile(path, path.name)}

    return write


@pytest.mark.parametrize(
    ("row", "columns", "fitted"),
    [
        (PAIR, {}, {"anchor": "anchor", "positive": "positive"}),
        (
            {**PAIR, "negative": "n"},
            {},
            {"anchor": "anchor", "positive": "positive", "negative": "negative"},
        ),
        (
            {**PAIR, "negative": "n"},
            {"anchor": "anchor"},
            {"anchor": "anchor", "positive": "positive"},
        ),
        ({**PAIR, "score": 1}, {}, {"anchor": "anchor", "positive": "positive"}),
        (
            {"sentence1": "a", "sentence2": "b", "score": 4.5},
            {},
            {"text": "sentence1", "text_pair": "sentence2", "score": "score"},
        ),
        (
            {"text": "a", "text_pair": "b", "gold": 0},
            {"score": "gold"},
            {"text": "text", "text_pair": "text_pair", "score": "gold"},
        ),
        (
            {"anchor": "a", "positive": "b", "bad": "c"},
            {"negative": "bad"},
            {"anchor": "anchor", "positive": "positive", "negative": "bad"},
        ),
    ],
)
def test_the_form_is_that_of_the_columns(write, row, columns, fitted):
    files = write([row] * 10)
    found = survey(spec_of(columns=columns), files)
    assert found.spec.columns.mapped() == fitted
    assert len(list(rows_of(found, "train", files))) == 10


@pytest.mark.parametrize(
    ("row", "changes", "words"),
    [
        ({**PAIR, "positive": " "}, {}, ("'positive'", "is empty")),
        ({**PAIR, "negative": "a"}, {}, ("same text as the positive",)),
        ({"text": "a", "text_pair": "b", "score": "high"}, {}, ("'score'", "number", "'high'")),
        (
            {"text": "a", "text_pair": "b", "score": 4.5},
            {"loss": "cosine"},
            ("4.5 is outside -1 to 1", "'cosent'"),
        ),
    ],
)
def test_a_row_that_does_not_fit_is_told_with_its_line(write, row, changes, words):
    good = {**row, **({"positive": "ok"} if "anchor" in row else {"score": 0.5})}
    with pytest.raises(InvalidRows) as caught:
        survey(spec_of(**changes), write([*[good] * 10, row]))
    told = caught.value.message
    assert "line 11" in told
    assert all(word in told for word in words), told


def test_a_column_that_is_missing_is_told(write):
    with pytest.raises(UnknownColumn, match="no column 'positive'"):
        survey(spec_of(), write([{"anchor": "q"}] * 10))


def test_roles_of_two_forms_are_refused():
    with pytest.raises(InvalidSpec, match="not of both"):
        spec_of(columns={"anchor": "a", "score": "s"})


def test_a_loss_of_other_rows_is_refused_before_and_after_the_file_is_seen(write):
    with pytest.raises(InvalidSpec, match="loss 'cosent' is not for pairs of texts"):
        spec_of(columns={"anchor": "q"}, loss="cosent")
    with pytest.raises(InvalidSpec, match="loss 'triplet' is not for pairs of texts") as caught:
        survey(spec_of(loss="triplet"), write([PAIR] * 10))
    assert caught.value.problems[0].pointer == "/loss"


def test_the_metrics_are_those_of_the_form():
    assert next(iter(spec_of(columns={"anchor": "q"}).metrics())) == "recall_at_1"
    assert "triplet_accuracy" in spec_of(columns={"negative": "n"}).metrics()
    assert next(iter(spec_of(columns={"score": "s"}).metrics())) == "spearman"
    # Not decided yet: any may be named.
    assert spec_of(evaluation={"metric": "spearman"}).evaluation.metric == "spearman"
    with pytest.raises(InvalidSpec, match="not measured"):
        spec_of(columns={"anchor": "q"}, evaluation={"metric": "spearman"})


def test_knobs_of_another_loss_are_told():
    spec = spec_of(columns={"anchor": "q"}, margin=0.5)
    assert [problem.pointer for problem in unused(spec)] == ["/margin"]
    spec = spec_of(columns={"score": "s"}, loss="cosine", scale=30, symmetric=True)
    assert [problem.pointer for problem in unused(spec)] == ["/scale", "/symmetric"]
