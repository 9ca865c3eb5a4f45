"""A job looked at without doing it: tokens, examples, choices and what it would take."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.tiny import (
    WORDS,
    carry_out,
    colour_rows,
    events_of,
    make_run,
    save_decoder,
    save_encoder,
    save_masker,
    save_writer,
)
from trainer_core.inspection import Findings, Request, Segment, Target
from trainer_core.rows.checking import look_through
from trainer_core.run_directory import RunDirectory, read_json
from trainer_core.spec import TASKS, parse_spec
from trainer_core.spec.resolving import num_evaluations
from trainer_core.training.inspecting import inspect
from trainer_core.training.models.base_model import open_model

pytestmark = pytest.mark.slow

CPU = Target("cpu", "cpu", memory_bytes=8 << 30)
GPU = Target("cuda", "A10", memory_bytes=24 << 30, has_fast_bf16=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "encoder": save_encoder(folder / "encoder"),
        "masker": save_masker(folder / "masker"),
        "decoder": save_decoder(folder / "decoder"),
        "writer": save_writer(folder / "writer", words=WORDS),
    }


def inspected(directory: RunDirectory, *targets: Target) -> Findings:
    spec, inputs = parse_spec(directory.read_spec()), directory.read_inputs()
    given = {"train": inputs.train, "eval": inputs.eval, "test": inputs.test}
    files = {split: file for split, file in given.items() if file is not None}
    found, _ = look_through(spec, files)
    assert found is not None
    Request(found.num_rows, found.classes, found.class_counts, targets or (CPU,)).write(
        directory.path
    )
    inspect(directory)
    findings = Findings.read(directory.path)
    assert findings is not None
    return findings


PAIR = {"prompt": "a red one", "chosen": "is warm", "rejected": "is cold"}
CHAT = [{"role": "user", "content": "is it red"}, {"role": "assistant", "content": "it is blue"}]
# Task -> model, row, and what of its first example is learnt.
ROWS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "text-classification": ("encoder", {"text": "is it red", "label": "x"}, []),
    "token-classification": ("encoder", {"tokens": ["red", "is"], "tags": ["B-X", "O"]},
                             ["red is"]),
    "question-answering": ("encoder", {"question": "is it red", "context": "it is blue",
        "answers": {"text": ["blue"], "answer_start": [6]}}, ["blue"]),
    "multiple-choice": ("encoder", {"question": "is it", "choices": ["red", "blue"], "label": 1},
                        ["blue"]),
    "masked-lm": ("masker", {"text": "it is a red round warm new old small one"}, [""]),
    "causal-lm": ("decoder", {"messages": CHAT}, ["it is blue"]),
    "summarization": ("writer", {"source": "a red round one", "target": "red"}, ["red"]),
    "translation": ("writer", {"source": "a red round one", "target": "red"}, ["red"]),
    "sentence-embedding": ("encoder", {"anchor": "red", "positive": "blue"}, []),
    "dpo": ("decoder", PAIR, ["warm", "cold"]),
    "orpo": ("decoder", PAIR, ["warm", "cold"]),
    "reward-model": ("decoder", PAIR, ["warm", "cold"]),
    "kto": ("decoder", {"prompt": "a", "completion": "is warm", "label": True}, ["is warm"]),
}  # fmt: skip
SHORT = {"question-answering": {"max_question_length": 16, "doc_stride": 8}}
OTHERS: dict[str, dict[str, Any]] = {
    "text-classification": {"label": "y"}, "kto": {"label": False},
    "token-classification": {"tags": ["B-Y", "O"]},
}  # fmt: skip


@pytest.mark.parametrize("task", list(TASKS))
def test_every_task_shows_what_is_learnt_of_a_row(models, task, tmp_path):
    model, row, learnt = ROWS[task]
    rows = [row, {**row, **OTHERS.get(task, {})}] * 20
    spec = {"task": task, **SHORT.get(task, {})}
    directory = make_run(tmp_path / "run", model=models[model], rows=rows, spec=spec)
    findings = inspected(directory, CPU, GPU)
    assert findings.error is None, findings.error
    shown = [part.text for part in findings.examples[0].segments if part.is_learnt]
    assert len(findings.examples) == 3
    assert all(any(word in text for text in shown) for word in learnt), findings.examples[0]
    assert bool(shown) == bool(learnt)
    assert [one.target for one in findings.estimates] == [CPU, GPU]
    for one in findings.estimates:
        assert one.memory is not None
        assert one.memory.low < one.memory.expected < one.memory.high


def test_the_loss_mask_of_a_completion_begins_behind_the_prompt(models, tmp_path):
    rows = [{"prompt": "is it ", "completion": "red"}] * 20
    directory = make_run(
        tmp_path / "run", model=models["decoder"], rows=rows, spec={"task": "causal-lm"}
    )
    first, second = inspected(directory).examples[0].segments
    assert first == Segment("is it ", is_learnt=False)
    assert second.is_learnt
    assert second.text.startswith("red")


def test_what_a_run_decides_is_what_was_told_before(models, tmp_path):
    spec = {"task": "text-classification", "training": {"epochs": 2, "batch_size": 8}}
    directory = make_run(tmp_path / "run", model=models["encoder"], rows=colour_rows(60), spec=spec)
    (told,) = inspected(directory).estimates
    assert carry_out(directory).error is None
    resolved = read_json(directory.resolved)
    assert told.spec == resolved["spec"]
    assert list(told.choices) == resolved["choices"]
    events = [json.loads(line) for line in directory.events.read_text().splitlines()]
    steps = [event["data"]["max_steps"] for event in events if event["type"] == "progress"]
    assert told.num_steps == steps[-1]


@pytest.mark.parametrize(
    ("evaluation", "training", "expected"),
    [
        ({"strategy": "epoch", "baseline": True}, {"epochs": 2.5}, 4),
        ({"strategy": "steps", "steps": 2}, {"epochs": 1}, 3),  # after the last step, too
        ({"strategy": "steps", "steps": 9}, {"epochs": 1}, 1),
        ({"strategy": "no"}, {"max_steps": 3}, 1),
    ],
)
def test_a_run_measures_as_often_as_its_time_is_told_for(
    models, tmp_path, evaluation, training, expected
):
    spec = {
        "task": "text-classification",
        "training": {"batch_size": 8, **training},
        "evaluation": {"baseline": False, **evaluation},
    }
    directory = make_run(
        tmp_path / "run",
        model=models["encoder"],
        rows=colour_rows(40),
        spec=spec,
        eval=colour_rows(10, seed=2),
    )
    assert carry_out(directory).error is None
    measured = [event.data["split"] for event in events_of(directory, "metrics")]
    assert measured.count("eval") == expected
    resolved = parse_spec(read_json(directory.resolved)["spec"])
    assert num_evaluations(resolved, num_train_rows=40) == expected


def test_evaluations_take_time(models, tmp_path):
    rows = [{"text": "red red red red", "label": label} for label in "ab"] * 10
    seconds = {}
    for num_measured, splits in ((0, {}), (20, {"eval": rows}), (40, {"eval": rows, "test": rows})):
        spec = {
            "task": "text-classification",
            "data": {"eval": None},
            "training": {"epochs": 1, "batch_size": 10},
            "evaluation": {"strategy": "no", "baseline": False},
        }
        directory = make_run(
            tmp_path / str(num_measured), model=models["encoder"], rows=rows, spec=spec, **splits
        )
        (told,) = inspected(directory).estimates
        assert told.seconds is not None
        seconds[num_measured] = told.seconds.expected
    # Each row is read three times over where it is trained on.
    assert seconds[20] == pytest.approx(seconds[0] * 4 / 3)
    assert seconds[40] == pytest.approx(seconds[0] * 5 / 3)


def test_tokens_are_counted_before_they_are_cut(models, tmp_path):
    rows = [{"text": "red " * 4, "label": "a"}, {"text": "red " * 30, "label": "b"}] * 20
    spec = {"task": "text-classification", "max_length": 16, "data": {"eval": None}}
    directory = make_run(tmp_path / "run", model=models["encoder"], rows=rows, spec=spec)
    tokens = inspected(directory).tokens["train"]
    assert (tokens.percentiles["p50"], tokens.percentiles["max"]) == (32, 32)  # with two specials
    assert tokens.share_truncated == 0.5
    assert tokens.share_without_targets == 0


def test_rows_with_nothing_to_learn_are_counted(models, tmp_path):
    short = {"prompt": "a", "completion": "red"}
    long = {"prompt": "red " * 30, "completion": "red"}
    spec = {"task": "causal-lm", "max_length": 16, "data": {"eval": None}}
    directory = make_run(
        tmp_path / "run", model=models["decoder"], rows=[*[short] * 30, *[long] * 10], spec=spec
    )
    findings = inspected(directory)
    assert findings.tokens["train"].share_without_targets == 0.25
    assert findings.estimates[0].num_steps == 6  # 3 epochs of 30 rows, 16 at once
    assert "rows_left_out" in {warning["code"] for warning in findings.warnings} or (
        findings.warnings
    )


def test_no_weight_is_loaded_and_an_adapter_trains_few(models, tmp_path, monkeypatch):
    spec = {"task": "text-classification", "adapter": {"r": 4}}
    directory = make_run(tmp_path / "run", model=models["encoder"], rows=colour_rows(60), spec=spec)
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", None)
    findings = inspected(directory)
    base = open_model(models["encoder"])
    assert findings.error is None, findings.error
    assert findings.num_weights is not None
    assert findings.num_trained is not None
    assert base.num_weights < findings.num_weights
    assert findings.num_trained < base.num_weights / 2


def test_a_model_that_can_not_be_used_is_an_error_of_the_findings(models, tmp_path):
    rows = [{"source": "a", "target": "b"}] * 20
    directory = make_run(
        tmp_path / "run", model=models["encoder"], rows=rows, spec={"task": "summarization"}
    )
    findings = inspected(directory)
    assert findings.error is not None
    assert findings.error.code == "unusable_model"


def test_a_precision_that_one_device_lacks_is_told_for_it_alone(models, tmp_path):
    spec = {"task": "text-classification", "training": {"precision": "fp16"}}
    directory = make_run(tmp_path / "run", model=models["encoder"], rows=colour_rows(60), spec=spec)
    cpu, gpu = inspected(directory, CPU, GPU).estimates
    assert cpu.error is not None
    assert cpu.memory is None
    assert gpu.error is None
    assert gpu.memory is not None
    assert gpu.seconds is None  # of which nobody has measured the speed
