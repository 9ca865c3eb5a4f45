"""What `survey` says of the rows of a job: counts and classes, or the place and the fix."""

import hashlib
import json
import random
import tracemalloc
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_core.errors import DataError, InvalidRows, TooFewRows, UnknownColumn, UnseenLabel
from trainer_core.rows import checking
from trainer_core.rows.checking import all_rows, rows_of, survey
from trainer_core.rows.classes import RowClasses
from trainer_core.rows.files import InputFile
from trainer_core.rows.reading import read_rows
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


def splits_of(rows, **shares):
    return assign_splits(RowClasses.of(rows), **shares)


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


def test_split_of_rare_combinations_takes_neither_all_of_a_common_one_nor_too_few():
    chance = random.Random(1)  # noqa: S311 - repeatable, not secret
    names = [f"class {n}" for n in range(60)]
    rare = [tuple(chance.sample(names, 5)) for _ in range(900)]
    common = [("only_spam",)] * 100
    for rows in ([*rare, *common], rare + rare[:100], [tuple(r) for r in rare]):
        splits = splits_of(rows, eval_share=0.1, test_share=0.05, seed=3)
        assert splits.count(EVAL) == round(len(rows) * 0.1)
        assert splits.count(TEST) == round(len(rows) * 0.05)
    splits = splits_of([*rare, *common], eval_share=0.1, test_share=0.0, seed=3)
    assert 9 <= splits[900:].count(EVAL) <= 11


def test_split_of_many_small_classes_holds_out_their_share():
    rows = [(f"class {n}",) for n in range(77) for _ in range(8)]
    splits = splits_of(rows, eval_share=0.1, test_share=0.0, seed=5)
    held_out = Counter(row for row, split in zip(rows, splits, strict=True) if split == EVAL)
    assert sum(held_out.values()) == 62
    assert max(held_out.values()) == 1
    assert splits != splits_of(rows, eval_share=0.1, test_share=0.0, seed=6)


def test_split_of_the_same_labels_in_another_order_is_one_group():
    rows = [("a", "b") if n % 2 else ("b", "a", "b") for n in range(20)]
    splits = splits_of(rows, eval_share=0.1, test_share=0.0, seed=1)
    assert splits.count(EVAL) == 2


def test_split_is_the_one_that_earlier_versions_made():
    chance = random.Random(7)  # noqa: S311 - repeatable, not secret
    single = [(f"class {min(int(chance.expovariate(0.4)), 30)}",) for _ in range(3000)]
    names = [f"tag {n}" for n in range(12)]
    several = [tuple(chance.choices(names, k=chance.randint(0, 4))) for _ in range(2000)]
    without = [()] * 1000
    shares = [(0.1, 0.0, 42), (0.2, 0.15, 7), (0.0, 0.3, 1)]
    found = [
        splits_of(rows, eval_share=eval_share, test_share=test_share, seed=seed)
        for rows in (single, [*several, ("lone",)], without)
        for eval_share, test_share, seed in shares
    ]
    assert [hashlib.sha256(splits).hexdigest()[:16] for splits in found] == [
        "0aa8a9a5be1610f3",
        "cd5c2c4c6c0a2a4d",
        "416a5ad3430b1907",
        "5bac7e791ab1cd43",
        "9986f4b03ce65389",
        "bb625b2e25d08e03",
        "cfd0d609bd01fdaf",
        "6299e7fd07995567",
        "a5371b6f572841df",
    ]


def test_each_file_is_read_once_to_survey_it_and_once_for_its_rows(write, monkeypatch):
    files = {
        "train": write("train.csv", csv_of(["a", "b"] * 50)),
        "eval": write("eval.csv", csv_of(["a", "b"] * 10)),
    }
    passes = Counter()

    def counted(path, **options):
        passes[path.name] += 1
        return read_rows(path, **options)

    monkeypatch.setattr("trainer_core.rows.fitting.read_rows", counted)
    spec = spec_of(data={"eval": "dataset:ds_0123456789ac", "test": 0.2, "max_eval_rows": 6})
    found = survey(spec, files)
    assert passes == {"train.csv": 1, "eval.csv": 1}

    rows = list(all_rows(found, files))
    assert passes == {"train.csv": 2, "eval.csv": 2}
    for split, number in found.num_rows.items():
        own = [row for name, row in rows if name == split]
        assert len(own) == number
        assert own == list(rows_of(found, split, files))


def test_classes_and_splits_take_a_few_bytes_a_row():
    num_rows = 50_000
    rows = ((f"class {number % 7}",) for number in range(num_rows))
    tracemalloc.start()
    try:
        splits_of(rows, eval_share=0.1, test_share=0.1, seed=1)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes / num_rows < 32  # lists of tuples of strings took 160


def test_bad_rows_before_the_first_good_one_are_counted(write):
    text = "not JSON\n" * 150 + '{"text": "t", "label": "a"}\n{"text": "t", "label": "b"}\n' * 10
    with pytest.raises(InvalidRows) as caught:
        survey(spec_of(), {"train": write("train.jsonl", text)})
    assert caught.value.detail["total"] == 150
    assert [row["line"] for row in caught.value.detail["rows"]] == list(range(1, 101))


def test_of_several_unseen_labels_the_first_line_is_told(write):
    rows = [["a"], ["z", "c", "a"], ["b"], ["c"]]
    lines = [json.dumps({"text": "t", "label": labels}) for labels in [["a"], []] * 10]
    held_out = [json.dumps({"text": "t", "label": labels}) for labels in rows]
    files = {
        "train": write("train.jsonl", "\n".join(lines)),
        "eval": write("eval.jsonl", "\n".join(held_out)),
    }
    spec = spec_of(problem="multi-label", data={"eval": "dataset:ds_0123456789ac"})
    with pytest.raises(UnseenLabel, match=r"label 'c' in eval.jsonl, line 2 is in no"):
        survey(spec, files)


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


def test_texts_in_place_of_labels_are_told_as_that(write, monkeypatch):
    monkeypatch.setattr(checking, "MAX_CLASSES", 20)
    files = {"train": write("train.csv", csv_of(f"text {n}" for n in range(21)))}
    with pytest.raises(DataError, match="21 different labels in 'label'"):
        survey(spec_of(data={"eval": None}), files)


def test_one_class_that_some_rows_do_not_have_is_something_to_learn(write):
    rows = [{"text": "t", "label": ["red"]}, {"text": "t", "label": []}] * 10
    text = "".join(json.dumps(row) + "\n" for row in rows)
    spec = spec_of(problem="multi-label", data={"eval": None})
    assert survey(spec, {"train": write("train.jsonl", text)}).classes == ("red",)
    everywhere = (json.dumps(rows[0]) + "\n") * 20
    with pytest.raises(DataError, match=r"every row of all\.jsonl has the label 'red'"):
        survey(spec, {"train": write("all.jsonl", everywhere)})


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


def chats_of(write, *rows):
    """Write twelve good chats, and others after them."""
    good = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    text = "".join(json.dumps(row) + "\n" for row in [*[good] * 12, *rows])
    return {"train": write("chat.jsonl", text)}


def test_chat_without_an_assistant_is_learnt_where_all_is_learnt(write):
    mute = {"messages": [{"role": "user", "content": "q"}]}
    spec = spec_of("causal-lm", loss_on="all", data={"eval": None})
    assert survey(spec, chats_of(write, mute)).num_rows["train"] == 13


def test_weight_of_a_message_is_one_or_zero_and_the_assistants(write):
    ask = {"role": "user", "content": "q"}

    def answer(weight):
        return {"role": "assistant", "content": "a", "weight": weight}

    files = chats_of(write, *({"messages": [ask, answer(w), answer(1)]} for w in (0, 1, None)))
    found = survey(spec_of("causal-lm", data={"eval": None}), files)
    last = list(rows_of(found, "train", files))[-3:]
    assert [row.messages[1].weight for row in last] == [0, 1, 1]

    bad = [[ask, answer(2)], [ask, answer(0)], [{**ask, "weight": 0}, answer(1)]]
    with pytest.raises(InvalidRows) as caught:
        survey(spec_of("causal-lm"), chats_of(write, *({"messages": turns} for turns in bad)))
    reasons = [row["reason"] for row in caught.value.detail["rows"]]
    assert reasons[0].startswith("1.weight: ")
    assert "nothing to learn" in reasons[1]
    assert "'weight' is for messages of the assistant" in reasons[2]


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
    splits = splits_of(classes, **shares)
    assert splits == splits_of(classes, **shares)
    assert set(splits) <= {TRAIN, EVAL, TEST}
    trained = {c for row, split in zip(classes, splits, strict=True) if split == TRAIN for c in row}
    assert trained == {c for row in classes for c in row}
