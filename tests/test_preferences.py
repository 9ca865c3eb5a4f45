"""Rows and specs of the preference tasks: what parses, and what is said when it does not."""

import json

import pytest

from trainer_core.errors import InvalidRows, InvalidSpec, UnknownColumn
from trainer_core.rows.checking import survey
from trainer_core.rows.files import InputFile
from trainer_core.spec import TASKS, parse_spec, resolve, unused
from trainer_core.spec.resolving import Facts
from trainer_core.spec.tasks.messages import Message
from trainer_core.spec.tasks.preferences import Pair

ASK = {"role": "user", "content": "hi"}
GOOD = {"role": "assistant", "content": "hello"}
BAD = {"role": "assistant", "content": "go away"}
HI, HELLO, GO = (Message(**turn) for turn in (ASK, GOOD, BAD))
CALL = {"function": {"name": "greet", "arguments": {}}}
CALLS = {"role": "assistant", "content": None, "tool_calls": [CALL]}
PREFERENCES = ["dpo", "kto", "orpo", "reward-model"]


def spec_of(task="dpo", **changes):
    data = {"train": "dataset:ds_0123456789ab", **changes.pop("data", {})}
    return parse_spec({"task": task, "model": "model:m", "data": data, **changes})


def files_of(tmp_path, rows):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"train": InputFile(path, path.name)}


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ({"prompt": "a ", "chosen": "b", "rejected": "c"}, ("a ", "b", "c")),
        ({"chosen": "H: x A: ab", "rejected": "H: x A: cd"}, ("H: x A: ", "ab", "cd")),
        ({"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD]}, ((HI,), (HELLO,), (GO,))),
        ({"chosen": [ASK, GOOD], "rejected": [ASK, BAD]}, ((HI,), (HELLO,), (GO,))),
        ({"prompt": "hi", "chosen": [GOOD], "rejected": "go away"}, ((HI,), (HELLO,), (GO,))),
        (
            {
                "prompt": [{"from": "human", "value": "hi"}],
                "chosen": [{**GOOD, "content": [{"type": "text", "text": "hello"}]}],
                "rejected": [BAD],
            },
            ((HI,), (HELLO,), (GO,)),
        ),
        (
            {"prompt": [ASK], "chosen": [CALLS], "rejected": [BAD]},
            ((HI,), (Message(**CALLS),), (GO,)),
        ),
        (
            {"prompt": {"messages": [ASK], "tools": []}, "chosen": [GOOD], "rejected": [BAD]},
            ((HI,), (HELLO,), (GO,)),
        ),
    ],
)
def test_a_pair_is_a_prompt_and_two_completions_however_it_is_written(row, parts):
    assert Pair.model_validate(row).parts == parts


@pytest.mark.parametrize(
    ("row", "column", "words"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "prompt", "are the same"),
        ({"prompt": "a", "chosen": " ", "rejected": "b"}, "chosen", "is empty"),
        ({"prompt": "a", "chosen": None, "rejected": "b"}, "chosen", "is null"),
        ({"prompt": "a", "chosen": {"text": "b"}, "rejected": "b"}, "chosen", "text or a list of"),
        ({"prompt": "a", "chosen": [ASK], "rejected": "b"}, "prompt", "no assistant message"),
        ({"prompt": None, "chosen": [GOOD], "rejected": [BAD]}, "prompt", "give a prompt"),
        (
            {"prompt": "a", "chosen": [{**GOOD, "role": "bot"}], "rejected": "b"},
            "chosen",
            "0.role: should be 'system'",
        ),
        (
            {"prompt": "a", "chosen": [{**GOOD, "weight": 0}], "rejected": "b"},
            "chosen",
            "'weight' is not used",
        ),
        (
            {"prompt": {"messages": [ASK], "tools": [1]}, "chosen": [GOOD], "rejected": [BAD]},
            "prompt",
            "the use of tools",
        ),
    ],
)
def test_a_bad_pair_is_told_by_line_and_column(tmp_path, row, column, words):
    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    with pytest.raises(InvalidRows) as caught:
        survey(spec_of(), files_of(tmp_path, [good, row]))
    (problem,) = caught.value.detail["rows"]
    assert (problem["line"], problem["column"]) == (2, column)
    assert words in problem["reason"]


def test_the_prompt_column_is_found_or_done_without(tmp_path):
    rows = [{"prompt": "a", "chosen": f"b{n}", "rejected": "c"} for n in range(30)]
    assert survey(spec_of(), files_of(tmp_path, rows)).spec.columns.prompt == "prompt"
    without = [{name: row[name] for name in ("chosen", "rejected")} for row in rows]
    assert survey(spec_of(), files_of(tmp_path, without)).spec.columns.prompt is None
    with pytest.raises(UnknownColumn, match="no column 'question'"):
        survey(spec_of(data={"columns": {"prompt": "question"}}), files_of(tmp_path, rows))


@pytest.mark.parametrize("task", ["dpo", "orpo", "reward-model"])
def test_openais_rows_are_read_as_they_are(tmp_path, task):
    rows = [
        {
            "input": {"messages": [ASK], "tools": [], "parallel_tool_calls": True},
            "preferred_output": [GOOD],
            "non_preferred_output": [BAD],
        }
    ] * 30
    found = survey(spec_of(task), files_of(tmp_path, rows)).spec.columns.mapped()
    assert found == {
        "prompt": "input",
        "chosen": "preferred_output",
        "rejected": "non_preferred_output",
    }


def test_columns_that_are_named_are_not_taken_for_openais(tmp_path):
    rows = [{"input": "a", "preferred_output": "b", "non_preferred_output": "c"}] * 30
    with pytest.raises(UnknownColumn, match="no column 'chosen'"):
        survey(spec_of(data={"columns": {"rejected": "worse"}}), files_of(tmp_path, rows))


def test_labels_are_read_in_the_usual_spellings_and_held_out_alike(tmp_path):
    labels = [True, False, "true", "False", 1, 0] * 10
    rows = [{"prompt": "a", "completion": f"b{n}", "label": x} for n, x in enumerate(labels)]
    found = survey(spec_of("kto", data={"eval": 0.1}), files_of(tmp_path, rows))
    assert found.class_counts["eval"] == {"true": 3, "false": 3}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"loss_type": "aot"}, "sorts the pairs of a batch"),
        ({"loss_type": "sft"}, "learns nothing from what was rejected"),
        ({"loss_type": "sigmod"}, "should be 'sigmoid', 'hinge'"),
        ({"loss_type": "exo_pair"}, "needs a label_smoothing above 0"),
        ({"loss_type": "robust", "label_smoothing": 0.5}, "less than 0.5"),
        ({"beta": 0}, "greater than 0"),
    ],
)
def test_what_dpo_can_not_do_is_refused_with_the_reason(values, words):
    with pytest.raises(InvalidSpec, match=words):
        spec_of(**values)


@pytest.mark.parametrize("task", PREFERENCES)
def test_smoothing_that_changes_nothing_is_told(task):
    told = unused(spec_of(task, training={"label_smoothing": 0.1}))
    assert [problem.pointer for problem in told] == ["/training/label_smoothing"]


def test_smoothing_of_a_loss_without_it_is_told():
    told = unused(spec_of(label_smoothing=0.1))
    assert [problem.pointer for problem in told] == ["/label_smoothing"]
    assert not list(unused(spec_of(label_smoothing=0.1, loss_type="robust")))


@pytest.mark.parametrize("task", PREFERENCES)
def test_rates_are_lower_and_the_sequences_of_a_row_are_counted(task):
    facts = Facts(
        num_train_rows=1000,
        num_weights=100_000_000,
        max_positions=4096,
        has_chat_template=True,
        device="cuda",
        device_memory_bytes=20 * 2**30,
        has_fast_bf16=True,
        num_logits_per_token=50_000 if TASKS[task].has_token_logits else 0,
    )
    chosen = resolve(spec_of(task, training={"batch_size": 64}), facts).spec
    assert chosen.training.learning_rate <= 1e-5
    pairless = resolve(spec_of("causal-lm", max_length=1024, training={"batch_size": 64}), facts)
    if task != "reward-model":  # which has no logits of a vocabulary
        num_sequences = 1 if task == "kto" else 2  # its second one is scored without gradients
        micro_batch_size = pairless.spec.training.micro_batch_size
        assert chosen.training.micro_batch_size * num_sequences == micro_batch_size
