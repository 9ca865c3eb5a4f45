"""What is told of rows before a job is queued: everything at once, and nothing raised."""

import json
from pathlib import Path
from typing import Any

import pytest

from trainer_core.rows.checking import survey
from trainer_core.rows.examining import Examination, examine, sample_values
from trainer_core.rows.files import InputFile
from trainer_core.spec import TASKS, parse_spec

SPEC: dict[str, Any] = {
    "task": "text-classification",
    "model": "model:tiny",
    "data": {"train": "dataset:ds_0123456789ab", "eval": None},
}


def rows(count: int, *, start: int = 0) -> list[dict[str, Any]]:
    return [{"text": f"message {n}", "label": "ab"[n % 2]} for n in range(start, start + count)]


def examined(folder: Path, spec: dict[str, Any] = SPEC, **splits: list[Any]) -> Examination:
    files, data = {}, dict(spec["data"])
    for split, part in splits.items():
        path = folder / f"{split}.jsonl"
        lines = (one if isinstance(one, str) else json.dumps(one) for one in part)
        path.write_text("".join(line + "\n" for line in lines))
        files[split] = InputFile(path, path.name)
        data[split] = f"dataset:ds_{split:0>10}"
    return examine(parse_spec({**spec, "data": data}), files)


def test_good_rows_have_no_problems(tmp_path):
    found = examined(tmp_path, train=rows(40), eval=rows(6, start=100))
    assert found.problems == ()
    assert found.found is not None
    assert found.found.num_rows == {"train": 40, "eval": 6, "test": 0}
    assert found.found.class_counts["train"] == {"a": 20, "b": 20}
    assert found.repetition is not None
    assert found.repetition.twins == ()


def test_everything_that_is_wrong_is_told_at_once(tmp_path):
    train = [*rows(4), {"text": "no label"}, "{broken", {"text": "", "label": "a"}]
    found = examined(tmp_path, train=train, eval=[{"text": "x", "label": "never seen"}])
    codes = [problem.code for problem in found.problems]
    assert codes == ["invalid_rows", "unseen_label", "too_few_rows"]
    assert [row["line"] for row in found.problems[0].detail["rows"]] == [5, 6, 7]


def test_a_file_that_can_not_be_read_does_not_hide_what_is_wrong_with_another(tmp_path):
    found = examined(
        tmp_path, train=[*rows(20), {"text": "x"}], eval=[{"words": "x", "label": "a"}]
    )
    assert [problem.code for problem in found.problems] == ["unknown_column", "invalid_rows"]
    assert found.found is None


def test_the_first_problem_is_the_one_that_a_submission_is_refused_with(tmp_path):
    found = examined(tmp_path, train=[*rows(4), {"text": "no label"}])
    files = {"train": InputFile(tmp_path / "train.jsonl", "train.jsonl")}
    with pytest.raises(type(found.problems[0])) as caught:
        survey(parse_spec(SPEC), files)
    assert str(caught.value) == str(found.problems[0])


def test_what_is_there_twice_is_told_with_its_lines(tmp_path):
    train = [
        *rows(20),
        {"text": "message 3", "label": "b"},  # equals line 4
        {"text": "message 5", "label": "a"},  # contradicts line 6
    ]
    found = examined(tmp_path, train=train, eval=[*rows(2, start=100), *rows(3)])
    assert found.repetition is not None
    assert found.repetition.num_duplicates == {"train": 1, "eval": 0}
    assert found.repetition.num_contradictions == {"train": 1, "eval": 0}
    assert found.repetition.num_overlapping == {"eval": 3}
    told = {(twin.file, twin.line, twin.earlier_line) for twin in found.repetition.twins}
    assert ("train.jsonl", 21, 4) in told
    assert ("eval.jsonl", 3, 1) in told


def test_rows_held_out_of_the_training_file_are_compared_with_it(tmp_path):
    spec = {**SPEC, "data": {**SPEC["data"], "eval": 0.5}}
    found = examined(tmp_path, spec, train=[*rows(10), *rows(10)])
    assert found.repetition is not None
    held_out, doubled = found.repetition.num_overlapping["eval"], found.repetition.num_duplicates
    # Each of ten rows is there twice: in one split both times, or once in each.
    assert held_out + doubled["train"] + doubled["eval"] == 10


@pytest.mark.parametrize("task", list(TASKS))
def test_a_sampled_row_that_is_read_again_is_the_same_row(tmp_path, task):
    row = ROWS[task]
    spec = {"task": task, "model": "model:tiny", "data": {"train": "dataset:ds_0", "eval": None}}
    found = examined(tmp_path, spec, train=[{**row, **VARIED.get(task, {})}, *[row] * 19])
    assert found.found is not None
    assert found.problems == ()
    again = [sample_values(found.found.spec, one) for one in found.sample["train"]]
    (tmp_path / "again").mkdir()
    spec["data"]["columns"] = found.found.spec.columns.model_dump(mode="json")
    second = examined(tmp_path / "again", spec, train=again)
    assert second.sample == found.sample
    assert len(second.sample["train"]) == 20


PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}
ROWS: dict[str, dict[str, Any]] = {
    "text-classification": {"text": "a", "label": "x"},
    "token-classification": {"tokens": ["a", "b"], "tags": ["B-X", "O"]},
    "question-answering": {
        "question": "where?",
        "context": "it is here",
        "answers": {"text": ["here"], "answer_start": [6]},
    },
    "multiple-choice": {"question": "where?", "choices": ["here", "there"], "label": "B"},
    "masked-lm": {"text": "a b"},
    "causal-lm": {"messages": [{"role": "user", "content": "a"},
                               {"role": "assistant", "content": "b"}]},
    "summarization": {"source": "a", "target": "b"},
    "translation": {"source": "a", "target": "b"},
    "sentence-embedding": {"anchor": "a", "positive": "b"},
    "dpo": PAIR,
    "orpo": PAIR,
    "reward-model": PAIR,
    "kto": {"prompt": "a", "completion": "b", "label": True},
}  # fmt: skip
VARIED: dict[str, dict[str, Any]] = {
    "text-classification": {"label": "y"},
    "kto": {"label": False},
}
