"""The rows of question answering: every form of an answer, and what is wrong with one."""

import json
from typing import Any

import pytest

from trainer_core.errors import InvalidRows, InvalidSpec
from trainer_core.rows.checking import survey
from trainer_core.rows.files import InputFile
from trainer_core.spec import parse_spec, unused

CONTEXT = "Oslo is in Norway. I like Oslo."
NORWAY = {"text": "Norway", "answer_start": 11}


def _spec(**parts: Any) -> Any:
    return parse_spec(
        {
            "task": "question-answering",
            "model": "model:tiny",
            "data": {"train": "dataset:ds_0123456789ab", "eval": None},
            **parts,
        }
    )


def _surveyed(tmp_path: Any, answers: Any, **parts: Any) -> Any:
    row = {"context": CONTEXT, "question": "Where is Oslo?"}
    good = [{**row, "answers": NORWAY}] * 12
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in [*good, {**row, "answers": answers}]))
    return survey(_spec(**parts), {"train": InputFile(path=path, name="train.jsonl")})


@pytest.mark.parametrize(
    "answers",
    [
        NORWAY,
        [NORWAY, {"text": "in Norway", "answer_start": 8}],
        {"text": ["Norway", "in Norway"], "answer_start": [11, 8]},
        json.dumps([NORWAY]),
    ],
)
def test_answers_of_every_form_are_taken(tmp_path: Any, answers: Any) -> None:
    assert _surveyed(tmp_path, answers).num_rows["train"] == 13


@pytest.mark.parametrize("answers", [[], None, "", {"text": [], "answer_start": []}])
def test_no_answer_is_taken_where_the_spec_says_so(tmp_path: Any, answers: Any) -> None:
    assert _surveyed(tmp_path, answers, has_no_answers=True).num_rows["train"] == 13
    with pytest.raises(InvalidRows, match="is null" if answers is None else "set has_no_answers"):
        _surveyed(tmp_path, answers)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"text": "Norway", "answer_start": 12}, "'Norway' is not at answer_start 12"),
        ({"text": "Norway", "answer_start": 12}, "the context has 'orway.'; it starts at 11"),
        ({"text": "Oslo", "answer_start": 3}, "has it 2 times, first at 0"),
        ({"text": "Bergen", "answer_start": 0}, "the context does not have it"),
        ({"text": " Norway", "answer_start": 11}, "it starts at 10"),
        ({"text": ["Norway"], "answer_start": []}, "1 text but 0 answer_start"),
        ([{"text": "Norway"}], "answer_start: is missing"),
        ([{"text": " ", "answer_start": 4}], "text: is empty"),
        ("Norway", "an object with text and answer_start"),
        ("[1", "written as JSON"),
    ],
)
def test_a_wrong_answer_is_a_bad_row_that_says_why(tmp_path: Any, answers: Any, words: str) -> None:
    with pytest.raises(InvalidRows) as caught:
        _surveyed(tmp_path, answers)
    (problem,) = caught.value.detail["rows"]
    assert (problem["line"], problem["column"]) == (13, "answers")
    assert words in problem["reason"]


def test_metrics_of_questions_without_answer_are_asked_for() -> None:
    assert list(_spec().metrics()) == ["f1", "exact_match", "loss"]
    names = {"f1", "exact_match", "has_answer_f1", "no_answer_accuracy", "loss"}
    assert set(_spec(has_no_answers=True).metrics()) == names


def test_windows_have_to_move_on() -> None:
    with pytest.raises(InvalidSpec, match=r"max_length \(192\) must be larger"):
        _spec(max_length=192)
    assert _spec(max_length=193).max_length == 193


def test_threshold_without_questions_to_leave_open_is_told() -> None:
    told = unused(_spec(no_answer_threshold=1.0, training={"label_smoothing": 0.1}))
    assert [each.pointer for each in told] == ["/training/label_smoothing", "/no_answer_threshold"]
    assert not list(unused(_spec(no_answer_threshold=1.0, has_no_answers=True)))
