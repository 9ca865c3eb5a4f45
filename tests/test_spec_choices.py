"""The rows of multiple choice: every form of a label, and what is wrong with one."""

import json
from pathlib import Path
from typing import Any

import pytest

from trainer_core.errors import InvalidRows, UnknownColumn
from trainer_core.rows.checking import Survey, rows_of, survey
from trainer_core.rows.files import InputFile
from trainer_core.spec import parse_spec

ROW = {"question": "Where?", "choices": ["here", "there", "nowhere"]}


def _surveyed(
    folder: Path, *rows: dict[str, Any], **columns: str
) -> tuple[Survey, dict[str, InputFile]]:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*[{**ROW, "label": 0}] * 12, *rows]))
    files = {"train": InputFile(path=path, name="train.jsonl")}
    data = {"train": "dataset:ds_0123456789ab", "eval": None, "columns": columns}
    spec = parse_spec({"task": "multiple-choice", "model": "model:tiny", "data": data})
    return survey(spec, files), files


@pytest.mark.parametrize(
    ("change", "index"),
    [
        ({"label": 2}, 2),
        ({"label": 2.0}, 2),
        ({"label": "2"}, 2),
        ({"label": "C"}, 2),
        ({"label": " nowhere "}, 2),
        ({"label": "B", "choices": ["A", "B"]}, 1),  # the letter and the text mean the same
        ({"label": "there", "choices": '["here", "there"]'}, 1),  # a table's cell
        ({"label": 1, "choices": ["same", "same"]}, 1),
        ({"label": 1, "choices": ["0", "1"]}, 1),
    ],
)
def test_labels_of_every_form_are_taken(tmp_path: Path, change: dict[str, Any], index: int) -> None:
    *_, last = rows_of(*_in_order(_surveyed(tmp_path, {**ROW, **change})))
    assert getattr(last, "label") == index  # noqa: B009 - of the task's own row


def _in_order(surveyed: Any) -> tuple[Any, ...]:
    found, files = surveyed
    return found, "train", files


@pytest.mark.parametrize(
    ("change", "column", "words"),
    [
        ({"label": 3}, "label", "an index from 0 to 2, a letter from A to C"),
        ({"label": -1}, "label", "none of the 3 choices"),
        ({"label": "D"}, "label", "none of the 3 choices"),
        ({"label": "elsewhere"}, "label", "none of the 3 choices"),
        ({"label": True}, "label", "none of the 3 choices"),
        ({"label": 0.5}, "label", "none of the 3 choices"),
        ({"label": None}, "label", "is null"),
        ({"label": "1", "choices": ["1", "2"]}, "label", "choice A or B"),
        ({"label": "same", "choices": ["same", "same"]}, "label", "choice A or B"),
        ({"choices": ["one"], "label": 0}, "choices", "there are 1; 2 to 26"),
        ({"choices": ["a"] * 27, "label": 0}, "choices", "there are 27; 2 to 26"),
        ({"choices": ["a", " "], "label": 0}, "choices", "is empty"),
        ({"choices": "a", "label": 0}, "choices", "valid tuple"),
        ({"question": " ", "label": 0}, "question", "neither a context nor a question"),
    ],
)
def test_a_wrong_row_says_why(
    tmp_path: Path, change: dict[str, Any], column: str, words: str
) -> None:
    with pytest.raises(InvalidRows) as caught:
        _surveyed(tmp_path, {**ROW, **change})
    (problem,) = caught.value.detail["rows"]
    assert (problem["line"], problem["column"]) == (13, column)
    assert words in problem["reason"]


def test_columns_are_those_that_the_first_row_has(tmp_path: Path) -> None:
    found, _ = _surveyed(tmp_path)
    assert found.spec.columns.mapped() == {
        "question": "question",
        "choices": "choices",
        "label": "label",
    }
    with pytest.raises(UnknownColumn, match=r"columns\.question"):
        _surveyed(tmp_path, question="ask")
