"""What `survey` says of words with tags and of texts with spans."""

import json

import pytest

from trainer_core.errors import InvalidRows, InvalidSpec, UnseenLabel
from trainer_core.rows.checking import rows_of, survey
from trainer_core.rows.files import InputFile
from trainer_core.spec import parse_spec

TAGGED = {"tokens": ["Ada", "met"], "tags": ["B-PER", "O"]}
SPANNED = {"text": "Ada met Bob", "spans": [{"start": 0, "end": 3, "label": "PER"}]}


def spec_of(**data):
    train = {"train": "dataset:ds_0123456789ab", "eval": None, **data}
    return parse_spec({"task": "token-classification", "model": "model:m", "data": train})


@pytest.fixture
def write(tmp_path):
    def write(rows, name="rows.jsonl"):
        text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return InputFile(tmp_path / name, name)

    return write


@pytest.mark.parametrize(
    ("rows", "columns", "classes"),
    [
        ([TAGGED] * 10, {"tokens": "tokens", "tags": "tags"}, ("B-PER", "O")),
        ([SPANNED] * 10, {"text": "text", "spans": "spans"}, ("B-PER", "I-PER", "O")),
    ],
)
def test_the_columns_say_which_form_the_rows_have(write, rows, columns, classes):
    found = survey(spec_of(), {"train": write(rows)})
    assert found.spec.columns.mapped() == columns
    assert found.classes == classes


def test_a_conll_file_needs_no_columns_and_may_be_held_out_from(write):
    text = "Ada\tB-PER\nmet\tO\n\n" * 20
    files = {"train": write(text, "words.conll")}
    found = survey(spec_of(eval=0.2), files)
    assert found.num_rows == {"train": 16, "eval": 4, "test": 0}
    assert next(rows_of(found, "train", files)).tokens == ("Ada", "met")


def test_columns_of_both_forms_are_refused():
    with pytest.raises(InvalidSpec, match="not both"):
        spec_of(columns={"tokens": "words", "spans": "spans"})
    assert spec_of(columns={"tags": "ner"}).columns.fitted(()).mapped() == {
        "tokens": "tokens",
        "tags": "ner",
    }


@pytest.mark.parametrize(
    ("row", "column", "reason"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "tags", "there are 1 tags for 2 tokens"),
        ({"tokens": "a b", "tags": ["O", "O"]}, "tokens", "must be a list"),
        ({"tokens": [], "tags": []}, "tokens", "is empty"),
        ({"tokens": ["a"], "tags": [""]}, "tags", "0: is empty"),
    ],
)
def test_bad_tags_are_named(write, row, column, reason):
    problem = problem_of(write([TAGGED, row]))
    assert f"line 2, column '{column}'" in problem
    assert reason in problem


@pytest.mark.parametrize(
    ("spans", "reason"),
    [
        ([(0, 12)], "the span 'PER' from 0 to 12 ends after the text, which has 11 characters"),
        ([(3, 3)], "the span 'PER' from 3 to 3 is empty"),
        ([(3, 1)], "the span 'PER' from 3 to 1 is empty"),
        ([(0, 4)], "the span 'PER' from 0 to 4 starts or ends with white space: 'Ada '"),
        ([(8, 11), (4, 9)], "the span 'PER' from 8 to 11 overlaps 'PER' from 4 to 9"),
        ([(0, 3), (-1, 3)], "1.start: should be greater than or equal to 0; got -1"),
    ],
)
def test_bad_spans_are_named(write, spans, reason):
    listed = [{"start": start, "end": end, "label": "PER"} for start, end in spans]
    problem = problem_of(write([SPANNED, {"text": "Ada met Bob", "spans": listed}]))
    assert "line 2, column 'spans'" in problem
    assert reason in problem


def problem_of(file):
    with pytest.raises(InvalidRows) as caught:
        survey(spec_of(), {"train": file})
    return caught.value.message


def test_a_tag_that_no_training_row_has_is_told(write):
    files = {
        "train": write([TAGGED] * 10),
        "eval": write([TAGGED, {"tokens": ["x"], "tags": ["B-LOC"]}], "eval.jsonl"),
    }
    with pytest.raises(UnseenLabel, match=r"label 'B-LOC' in eval.jsonl, line 2"):
        survey(spec_of(eval="dataset:ds_0123456789ac"), files)
