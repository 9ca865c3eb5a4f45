"""What `survey` says of the rows of a job: counts and classes, or the place and the fix."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_core.errors import DataError, InvalidRows, TooFewRows, UnknownColumn, UnseenLabel
from trainer_core.rows.checking import rows_of, survey
from trainer_core.rows.files import InputFile
from trainer_core.rows.splitting import EVAL, TEST, TRAIN, assign_splits
from trainer_core.spec import parse_spec


def spec_of(task="text-classification", *, data=None, **changes):
    train = {"train": "dataset:ds_0123456789ab", **(data or {})}
    return parse_spec({"task": task, "model": "model:m", "data": train, **changes})


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return InputFile(path, name)

    return write


def csv_of(labels):
    return "text,label\n" + "".join(f"text {n},{label}\n" for n, label in enumerate(labels))


def test_fraction_is_held_out_within_each_class(write):
    files = {"train": write("train.csv", csv_of(["a"] * 80 + ["b"] * 20))}
    found = survey(spec_of(data={"eval": 0.2, "test": 0.1}), files)
    assert found.num_rows == {"train": 70, "eval": 20, "test": 10}
    assert found.class_counts["eval"] == {"a": 16, "b": 4}
    texts = {split: [row.text for row in rows_of(found, split, files)] for split in found.num_rows}
    assert Counter(text for part in texts.values() for text in part) == Counter(
        f"text {n}" for n in range(100)
    )


def test_class_with_one_row_is_trained_on_and_not_held_out(write):
    files = {"train": write("train.csv", csv_of(["a"] * 30 + ["rare"]))}
    found = survey(spec_of(data={"eval": 0.5}), files)
    assert found.class_counts["train"]["rare"] == 1


def test_classes_are_in_natural_order(write):
    files = {"train": write("train.csv", csv_of(["10", "2", "1", "x"] * 5))}
    assert survey(spec_of(), files).classes == ("1", "2", "10", "x")


def test_unknown_column_lists_the_columns_and_the_field_to_set(write):
    files = {"train": write("train.csv", "id,text,intent\n" + "1,hello,a\n" * 20)}
    with pytest.raises(UnknownColumn) as caught:
        survey(spec_of(), files)
    assert str(caught.value) == (
        "no column 'label' in train.csv; it has: id, text, intent. Set data.columns.label."
    )


def test_bad_rows_are_told_with_file_line_column_and_reason(write):
    text = csv_of(["a", "b"] * 10) + ",a\nlast,\n"
    with pytest.raises(InvalidRows) as caught:
        survey(spec_of(), {"train": write("train.csv", text)})
    assert caught.value.detail["total"] == 2
    first, second = caught.value.detail["rows"]
    assert (first["line"], first["column"], first["reason"]) == (22, "text", "is empty")
    assert (second["line"], second["column"], second["reason"]) == (23, "label", "is empty")
    assert "invalid_rows" in caught.value.hint


def test_bad_rows_can_be_left_out(write):
    text = csv_of(["a", "b"] * 10) + ",a\n"
    files = {"train": write("train.csv", text)}
    found = survey(spec_of(data={"invalid_rows": "skip", "eval": None}), files)
    assert (found.num_rows["train"], found.num_skipped) == (20, 1)


def test_only_the_first_hundred_bad_rows_are_told_and_all_are_counted(write):
    text = csv_of(["a", "b"] * 10) + ",a\n" * 250
    with pytest.raises(InvalidRows) as caught:
        survey(spec_of(), {"train": write("train.csv", text)})
    assert caught.value.detail["total"] == 250
    assert len(caught.value.detail["rows"]) == 100


def test_label_seen_only_in_eval_is_told_with_its_line(write):
    files = {
        "train": write("train.csv", csv_of(["a", "b"] * 10)),
        "eval": write("eval.csv", csv_of(["a", "c"])),
    }
    with pytest.raises(UnseenLabel, match=r"label 'c' in eval.csv, line 3 is in no training row"):
        survey(spec_of(data={"eval": "dataset:ds_0123456789ac"}), files)


def test_three_rows_are_too_few(write):
    with pytest.raises(TooFewRows, match=r"train.csv leaves 3 rows to train on; at least 10"):
        survey(spec_of(data={"eval": None}), {"train": write("train.csv", csv_of("aba"))})


def test_one_class_is_nothing_to_learn(write):
    with pytest.raises(DataError, match="nothing to tell apart"):
        survey(spec_of(), {"train": write("train.csv", csv_of(["a"] * 20))})


def test_regression_labels_must_be_finite_numbers(write):
    text = csv_of(["1.5"] * 12 + ["high", "inf"])
    with pytest.raises(InvalidRows) as caught:
        survey(spec_of(problem="regression"), {"train": write("train.csv", text)})
    assert [row["line"] for row in caught.value.detail["rows"]] == [14, 15]


def test_multi_label_takes_lists_and_separated_cells(write):
    rows = [{"text": "t", "label": ["a", "b"]}, {"text": "t", "label": "b;c"}] * 10
    text = "".join(json.dumps(row) + "\n" for row in rows)
    spec = spec_of(problem="multi-label", data={"eval": None})
    assert survey(spec, {"train": write("train.jsonl", text)}).classes == ("a", "b", "c")


def test_chat_column_is_found_and_turns_are_checked(write):
    good = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    mute = {"messages": [{"role": "user", "content": "q"}]}
    odd = {"messages": [{"role": "robot", "content": "q"}]}
    text = "".join(json.dumps(row) + "\n" for row in [*[good] * 12, mute, odd])
    with pytest.raises(InvalidRows) as caught:
        survey(spec_of("causal-lm"), {"train": write("chat.jsonl", text)})
    first, second = caught.value.detail["rows"]
    assert (first["line"], first["column"]) == (13, "messages")
    assert "nothing to learn" in first["reason"]
    assert second["reason"].startswith("0.role: ")


def test_plain_text_file_is_rows_of_text(write):
    files = {"train": write("corpus.txt", "a line\n\n" * 20)}
    found = survey(spec_of("causal-lm"), files)
    assert found.num_rows == {"train": 18, "eval": 2, "test": 0}
    assert next(rows_of(found, "train", files)).text == "a line"


def test_limits_take_the_first_rows(write):
    files = {"train": write("train.csv", csv_of(["a", "b"] * 50))}
    found = survey(spec_of(data={"max_train_rows": 40, "eval": 0.5, "max_eval_rows": 5}), files)
    assert found.num_rows == {"train": 20, "eval": 5, "test": 0}
    assert len(list(rows_of(found, "eval", files))) == 5


@given(
    st.lists(st.sampled_from([(), ("a",), ("b",), ("a", "b"), ("c",)]), max_size=200),
    st.floats(0, 0.5),
    st.floats(0, 0.4),
    st.integers(0, 99),
)
def test_split_is_repeatable_and_never_hides_a_class(classes, eval_share, test_share, seed):
    shares = {"eval_share": eval_share, "test_share": test_share, "seed": seed}
    splits = assign_splits(classes, **shares)
    assert splits == assign_splits(classes, **shares)
    assert set(splits) <= {TRAIN, EVAL, TEST}
    trained = {c for row, split in zip(classes, splits, strict=True) if split == TRAIN for c in row}
    assert trained == {c for row in classes for c in row}
