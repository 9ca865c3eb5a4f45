"""The spec: what parses, what is said when it does not, and what `auto` becomes."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_core.errors import InvalidSpec
from trainer_core.spec import (
    TASKS,
    Facts,
    check_built,
    parse_spec,
    resolve,
    spec_schema,
    unused,
)
from trainer_core.spec.references import parse_data_reference, parse_model_reference
from trainer_core.spec.resolving import auto_pointers

STORED = Path(__file__).parent / "snapshots" / "specs"
MINIMAL = {
    "task": "text-classification",
    "model": "model:tiny",
    "data": {"train": "dataset:ds_0123456789ab"},
}
CPU = Facts(
    num_train_rows=1000,
    num_weights=22_000_000,
    max_positions=512,
    has_chat_template=False,
    device="cpu",
    device_memory_bytes=None,
    has_fast_bf16=False,
)


def problems_of(values):
    with pytest.raises(InvalidSpec) as caught:
        check_built(parse_spec(values))
    return {
        problem.pointer: f"{problem.message} {problem.hint}" for problem in caught.value.problems
    }


@pytest.mark.parametrize("task", TASKS)
def test_example_of_every_task_parses_and_fits_its_schema(task):
    import jsonschema

    spec = parse_spec(TASKS[task].example)
    assert spec.task == task
    jsonschema.validate(TASKS[task].example, spec_schema(task))


@pytest.mark.parametrize("file", sorted(STORED.glob("*.json")), ids=lambda path: path.stem)
def test_specs_stored_by_earlier_versions_parse_for_ever(file):
    stored = json.loads(file.read_text())
    assert _kept(json.loads(parse_spec(stored).model_dump_json()), stored) == stored


def _kept(parsed, stored):
    """Return of a parsed spec what the stored one says: later versions only add fields."""
    if not isinstance(stored, dict):
        return parsed
    return {name: _kept(parsed[name], value) for name, value in stored.items() if name in parsed}


def test_there_is_a_stored_spec_of_every_task():
    stored = {json.loads(file.read_text())["task"] for file in STORED.glob("*.json")}
    assert stored == set(TASKS)


def test_every_wrong_field_is_told_at_once_with_its_place():
    found = problems_of(
        {
            **MINIMAL,
            "training": {"learning_rate": "fast", "epoch": 2, "batch_size": 0},
            "data": {"train": "/etc/passwd"},
            "labels": {"team": "a\x00"},
        }
    )
    assert set(found) == {
        "/training/learning_rate",
        "/training/epoch",
        "/training/batch_size",
        "/data/train",
        "/labels/team",
    }
    assert "number" in found["/training/learning_rate"]
    assert "'fast'" in found["/training/learning_rate"]
    assert "Did you mean 'epochs'?" in found["/training/epoch"]


def test_field_of_another_task_is_named_as_such():
    found = problems_of({**MINIMAL, "loss_on": "all"})
    assert "field of causal-lm, not of text-classification" in found["/loss_on"]


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("text-clasification", "Did you mean 'text-classification'?"),
        ("cooking", f"Known tasks: {', '.join(TASKS)}."),
        (None, "required"),
        (["text-classification"], "there is no task"),
    ],
)
def test_unknown_task_names_the_known_ones(task, words):
    assert words in problems_of({**MINIMAL, "task": task})["/task"]


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        (
            {"resources": {"gpus": 2, "parallel": {"strategy": "fsdp"}}, "adapter": {}},
            "/resources/parallel/strategy",
        ),
        ({"data": {"train": "hub:org/rows"}}, "/data/train"),
    ],
)
def test_option_that_is_not_built_is_refused_never_ignored(change, pointer):
    found = problems_of({**MINIMAL, **change})
    assert "not available in this version" in found[pointer]


@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed"])
def test_a_reference_needs_a_device_that_holds_the_whole_model(strategy):
    parallel = {"gpus": 2, "parallel": {"strategy": strategy}}
    parts = {"resources": parallel, "adapter": None}
    for task in ("dpo", "kto"):
        found = problems_of({**TASKS[task].example, **parts})
        assert "a reference" in found["/resources/parallel/strategy"]
    check_built(parse_spec({**TASKS["orpo"].example, **parts}))


@pytest.mark.parametrize(
    "change",
    [
        {"training": {"early_stopping": {}}, "evaluation": {"strategy": "no"}},
        {"training": {"batch_size": 8, "micro_batch_size": 3}},
        {"evaluation": {"strategy": "steps"}},
        {"training": {"freeze": ["embeddings"]}, "adapter": {}},
        {"training": {"freeze": ["layers:0"]}},
        {"training": {"scheduler": "linear", "scheduler_options": {"power": 2}}},
        {
            "training": {
                "scheduler": "cosine_with_restarts",
                "scheduler_options": {"num_cycles": 1.5},
            }
        },
        {
            "training": {
                "scheduler": "warmup_stable_decay",
                "warmup_ratio": 0.5,
                "scheduler_options": {"decay_ratio": 0.6},
            }
        },
        {"training": {"scheduler": "reduce_lr_on_plateau"}, "evaluation": {"strategy": "no"}},
        {"scratch": {}, "adapter": {}},
        {"resources": {"parallel": {"strategy": "fsdp", "zero_stage": 3}}},
        {"resources": {"parallel": {"strategy": "ddp", "offload": "all"}}},
        {"resources": {"parallel": {"strategy": "deepspeed", "reshard": True}}},
        {"resources": {"parallel": {"strategy": "deepspeed", "offload": "all"}}},
        {"resources": {"parallel": {"strategy": "deepspeed", "config": {"a": 1}}}},
        {"scratch": {"hidden_size": 10**9}},
        {"scratch": {"auto_map": {"AutoModel": "attack.Model"}}},
        {"evaluation": {"metric": "bleu"}},
        {"data": {**MINIMAL["data"], "eval": 0.5, "test": 0.5}},
        {"data": {**MINIMAL["data"], "eval": 1.5}},
    ],
)
def test_fields_that_contradict_each_other_are_refused(change):
    assert problems_of({**MINIMAL, **change})


TEXT = {
    **MINIMAL,
    "task": "causal-lm",
    "data": {"train": "dataset:ds_0123456789ab", "columns": {"text": "text"}},
}
CHATS = {**TEXT, "data": {**TEXT["data"], "columns": {"messages": "messages"}}}
WRITTEN = {**MINIMAL, "task": "summarization"}


@pytest.mark.parametrize(
    ("values", "pointers"),
    [
        (MINIMAL, []),
        (TEXT, []),
        ({"training": {"optimizer": "sgd", "adam_beta1": 0.8}}, ["/training/adam_beta1"]),
        (
            {"training": {"optimizer": "lion_32bit", "adam_beta2": 0.9, "adam_epsilon": 1e-6}},
            ["/training/adam_epsilon"],
        ),
        ({"training": {"adam_beta1": 0.8, "adam_epsilon": 1e-6}}, []),
        ({"training": {"optimizer": "schedule_free_sgd", "scheduler": "cosine", "adam_beta1": 0.8}},
         ["/training/adam_beta1", "/training/scheduler"]),
        ({"training": {"scheduler": "reduce_lr_on_plateau", "warmup_ratio": 0.1}},
         ["/training/warmup_ratio"]),
        ({"training": {"epochs": 5, "max_steps": 10}}, ["/training/epochs"]),
        ({"checkpoints": {"strategy": "no"}}, ["/evaluation/metric"]),
        ({"checkpoints": {"strategy": "no"}, "evaluation": {"strategy": "no"}}, []),
        ({"evaluation": {"strategy": "no", "metric": "loss"}}, ["/evaluation/metric"]),
        (
            {
                "data": {**MINIMAL["data"], "eval": None, "max_eval_rows": 9},
                "evaluation": {"strategy": "steps", "steps": 5, "metric": "loss", "batch_size": 2},
            },
            ["/evaluation/steps", "/data/max_eval_rows", "/evaluation/batch_size",
             "/evaluation/metric"],
        ),
        ({"threshold": 0.3}, ["/threshold"]),
        ({"threshold": 0.3, "problem": "multi-label"}, []),
        (
            {"problem": "regression", "training": {"label_smoothing": 0.1}},
            ["/training/label_smoothing"],
        ),
        ({**TEXT, "loss_on": "all", "chat_template": "model"}, ["/loss_on", "/chat_template"]),
        ({**TEXT, "join_texts": True}, []),
        ({**CHATS, "join_texts": True}, ["/join_texts"]),
        ({**WRITTEN, "generation": {"length_penalty": 2}}, ["/generation/length_penalty"]),
        ({**WRITTEN, "generation": {"length_penalty": 2, "num_beams": 4}}, []),
    ],
)  # fmt: skip
def test_setting_that_changes_nothing_is_told(values, pointers):
    problems = list(unused(parse_spec({**MINIMAL, **values})))
    assert [problem.pointer for problem in problems] == pointers
    assert all(problem.message.startswith("is not used: ") for problem in problems)


def test_references_are_those_of_splits_with_rows_of_their_own():
    data = {"train": "dataset:ds_0123456789ab", "eval": 0.2, "test": "hub:org/rows"}
    spec = parse_spec({**MINIMAL, "data": data})
    assert spec.data.references() == {"train": "dataset:ds_0123456789ab", "test": "hub:org/rows"}


@pytest.mark.parametrize("task", TASKS)
def test_metrics_say_which_way_is_better(task):
    metrics = parse_spec(TASKS[task].example).metrics()
    assert set(metrics.values()) <= {"higher", "lower"}
    assert metrics["loss"] == "lower"


@pytest.mark.parametrize(
    "text",
    [
        "hub:a/b",
        "hub:bert-base",
        "hub:a/b@main",
        "model:m",
        "job:job_0123456789/checkpoint-20",
        "a/b",
    ],
)
def test_model_references_of_every_form_parse(text):
    assert parse_model_reference(text).name


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("ft:tiny:default:greeter:0123456789ab", "job:job_0123456789ab"),
        ("ft:org/small:default::0123456789ab", "job:job_0123456789ab"),
        (
            "ft:tiny:default:greeter:0123456789ab:ckpt-step-20",
            "job:job_0123456789ab/checkpoint-20",
        ),
    ],
)
def test_the_name_of_a_fine_tuned_model_means_its_job(name, reference):
    assert parse_spec(TASKS["causal-lm"].example | {"model": name}).model == reference
    assert parse_model_reference(name) == parse_model_reference(reference)


@pytest.mark.parametrize(
    "name", ["ft:", "ft:tiny:default:greeter", "ft:a:b:c:short", "ft:a b:c:d:0123456789ab"]
)
def test_what_only_looks_like_the_name_of_a_model_is_refused(name):
    with pytest.raises(ValueError, match="not a reference"):
        parse_model_reference(name)


@pytest.mark.parametrize(
    "text",
    [
        "/srv/models/a", "../a/b", "a/../b", "file:///x", "hub:a/b/c", "hub:a/..", "model:../x",
        "model:a/b", "job:1", "dataset:ds_0123456789ab", "~/m", "hub:a/b@../x", "a b/c", "", "\x00",
    ],
)  # fmt: skip
def test_paths_and_other_nonsense_are_no_model_references(text):
    with pytest.raises(ValueError, match="not a reference"):
        parse_model_reference(text)


def test_data_reference_may_name_configuration_and_revision():
    found = parse_data_reference("hub:org/rows:plain@v1")
    assert (found.name, found.config, found.revision) == ("org/rows", "plain", "v1")


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists))
def test_any_value_is_a_spec_or_an_invalid_spec(value):
    for body in (value, {**MINIMAL, "training": value}, {**MINIMAL, "data": {"train": value}}):
        with contextlib.suppress(InvalidSpec):  # anything else fails the test
            assert parse_spec(body).task == "text-classification"


@pytest.mark.parametrize("task", TASKS)
def test_resolving_leaves_no_auto_and_says_why(task):
    result = resolve(parse_spec(TASKS[task].example), CPU)
    assert "auto" not in json.dumps(result.spec.model_dump(mode="json"))
    assert all(choice.why for choice in result.choices)
    assert {choice.pointer for choice in result.choices} <= set(auto_pointers())
    assert resolve(result.spec, CPU).choices == ()  # nothing is left to choose


def test_what_the_user_chose_is_not_touched():
    spec = parse_spec({**MINIMAL, "training": {"learning_rate": 1e-3, "micro_batch_size": 4}})
    resolved = resolve(spec, CPU)
    assert resolved.spec.training.learning_rate == 1e-3
    assert resolved.spec.training.micro_batch_size == 4
    assert "/training/learning_rate" not in {choice.pointer for choice in resolved.choices}


@pytest.mark.parametrize(("positions", "expected"), [(None, 128), (1024, 128), (64, 64)])
def test_as_much_is_written_as_is_kept_of_a_target(positions, expected):
    resolved = resolve(parse_spec(WRITTEN), replace(CPU, max_positions=positions)).spec
    assert resolved.max_target_length == expected
    assert resolved.generation.max_new_tokens == expected


def test_small_device_gets_a_micro_batch_that_divides_the_batch():
    small = Facts(
        num_train_rows=1000,
        num_weights=110_000_000,
        max_positions=512,
        has_chat_template=False,
        device="cuda",
        device_memory_bytes=4 << 30,
        has_fast_bf16=True,
    )
    training = resolve(parse_spec({**MINIMAL, "training": {"batch_size": 24}}), small).spec.training
    assert training.micro_batch_size < 24
    assert 24 % training.micro_batch_size == 0
    assert training.precision == "bf16"


@pytest.mark.parametrize(
    ("device", "has_fast_bf16", "num_weights", "precision"),
    [
        ("cpu", False, 22_000_000, "fp32"),
        ("cpu", True, 22_000_000, "bf16"),
        ("cpu", True, 1_000_000, "fp32"),  # it takes longer to convert than it saves
        ("mps", False, 22_000_000, "fp32"),
        ("cuda", False, 22_000_000, "fp32"),
        ("cuda", True, 1_000_000, "bf16"),
    ],
)
def test_half_precision_is_chosen_where_it_is_faster(device, has_fast_bf16, num_weights, precision):
    facts = replace(CPU, device=device, has_fast_bf16=has_fast_bf16, num_weights=num_weights)
    assert resolve(parse_spec(MINIMAL), facts).spec.training.precision == precision


@pytest.mark.parametrize(
    ("device", "has_fast_bf16", "precision", "tf32"),
    [
        ("cpu", False, "auto", False),
        ("cpu", True, "auto", False),
        ("cuda", False, "auto", False),
        ("cuda", True, "auto", True),
        ("cuda", True, "fp32", False),
    ],
)
def test_tf32_is_chosen_where_there_is_it_and_nobody_asked_for_fp32(
    device, has_fast_bf16, precision, tf32
):
    facts = replace(CPU, device=device, has_fast_bf16=has_fast_bf16)
    spec = parse_spec({**MINIMAL, "training": {"precision": precision}})
    assert resolve(spec, facts).spec.training.tf32 is tf32


def test_frozen_weights_of_fewer_bits_leave_room_for_more_rows():
    facts = replace(CPU, device="cuda", device_memory_bytes=40 << 30, num_weights=7_000_000_000)
    sizes = [
        resolve(
            parse_spec(
                {
                    **TEXT,
                    "training": {"batch_size": 64},
                    "adapter": {"quantization": bits},
                    "max_length": 64,
                }
            ),
            facts,
        ).spec.training.micro_batch_size
        for bits in ("none", "8bit", "4bit")
    ]
    assert sizes[0] < sizes[1] <= sizes[2]


def test_logits_of_a_large_vocabulary_make_the_micro_batch_smaller():
    facts = replace(CPU, device="cuda", device_memory_bytes=24 << 30, num_weights=500_000_000)
    spec = parse_spec({**TEXT, "training": {"batch_size": 64}, "max_length": 2048})
    without = resolve(spec, facts).spec
    with_logits = resolve(spec, replace(facts, num_logits_per_token=150_000)).spec
    micro = with_logits.training.micro_batch_size
    # A row has 2.0 GB of activations and 4.9 GB of logits; 12.6 GB are free for them.
    assert (micro, without.training.micro_batch_size) == (1, 4)
    assert with_logits.evaluation.batch_size == micro
    assert without.evaluation.batch_size == 2 * without.training.micro_batch_size


def test_rows_are_packed_where_flash_attention_computes_them_in_half_precision():
    facts = replace(CPU, device="cuda", has_fast_bf16=True, has_flash_attention=True)
    assert resolve(parse_spec(TEXT), CPU).spec.packing is False
    assert resolve(parse_spec(TEXT), facts).spec.packing is True
    exact = parse_spec({**TEXT, "training": {"precision": "fp32"}})
    assert resolve(exact, facts).spec.packing is False
    assert resolve(parse_spec({**TEXT, "packing": True}), CPU).spec.packing is True


def test_an_encoder_decoder_has_logits_of_the_targets_alone():
    facts = replace(CPU, device="cuda", device_memory_bytes=24 << 30, num_weights=60_000_000)
    facts = replace(facts, num_logits_per_token=32_000, max_positions=1024)
    training = {"batch_size": 256}
    spec = resolve(parse_spec({**WRITTEN, "training": training}), facts).spec
    # A row has 0.12 GB of activations and 0.07 GB of logits; 19.7 GB are free for them.
    assert spec.training.micro_batch_size == 64


def test_model_that_can_not_recompute_is_not_asked_to():
    facts = replace(CPU, device="cuda", device_memory_bytes=1 << 30, num_weights=110_000_000)
    spec = parse_spec(MINIMAL)
    assert resolve(spec, facts).spec.training.gradient_checkpointing is True
    unable = resolve(spec, replace(facts, can_recompute=False)).spec
    assert unable.training.gradient_checkpointing is False
