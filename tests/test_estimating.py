"""The estimate of memory and time, as a function: what makes it more, and what less."""

from dataclasses import replace
from typing import Any

import pytest

from trainer_core.spec import Facts, parse_spec, resolve
from trainer_core.spec.estimating import (
    Memory,
    ModelShape,
    ModelSize,
    estimate_memory,
    estimate_seconds,
    least_bytes,
    row_bytes,
    state_bytes,
)
from trainer_core.spec.measured import DEVICES, KEPT
from trainer_core.spec.resolving import num_evaluations

BERT = ModelShape("bert", 12, 768, 3072, 12, has_dropped_scores=True)
SIZE = ModelSize(110_000_000, shape=BERT)


def spec_of(**changes: Any) -> Any:
    training = {"precision": "fp32", "micro_batch_size": 8, "batch_size": 8}
    values = {
        "task": "text-classification",
        "model": "model:tiny",
        "data": {"train": "dataset:ds_0123456789ab"},
        "max_length": 512,
        **changes,
    }
    return parse_spec({**values, "training": {**training, **changes.get("training", {})}})


def memory_of(
    spec: Any, size: ModelSize = SIZE, *, length: int = 128, num_rows: int = 1000
) -> Memory:
    return estimate_memory(
        spec, size, device="cpu", num_rows=num_rows, length=length, most=spec.num_row_tokens
    )


def test_the_parts_of_an_estimate_are_those_of_the_formula():
    spec = spec_of()
    of_layer = 128 * (43 * 768 + 8 * 3072 + 12 * 12 * 128)  # by the table's figures for BERT
    assert row_bytes(spec, SIZE, device="cpu", length=128) == 13 * of_layer
    assert state_bytes(spec, SIZE) == 16 * 110_000_000
    expected = DEVICES["cpu"].framework_bytes + 16 * 110_000_000 + 8 * 13 * of_layer
    assert memory_of(spec).expected == expected


@pytest.mark.parametrize(
    ("changes", "num_trained"),
    [
        ({"training": {"micro_batch_size": 4}}, None),
        ({"training": {"gradient_checkpointing": True}}, None),
        ({"training": {"precision": "bf16"}}, None),
        ({"training": {"optimizer": "sgd"}}, None),
        ({"adapter": {"type": "lora"}}, 1_000_000),
        ({"adapter": {"quantization": "4bit"}}, 1_000_000),
    ],
)
def test_what_saves_memory_is_estimated_to(changes, num_trained):
    saving = memory_of(spec_of(**changes), replace(SIZE, num_trained=num_trained))
    whole = memory_of(spec_of())
    assert saving.low < whole.low
    assert saving.expected < whole.expected


def test_longer_rows_need_more_and_scores_grow_with_their_square():
    short, long = (memory_of(spec_of(), length=length).expected for length in (128, 256))
    fixed = memory_of(spec_of(), length=0).expected
    assert long - fixed > 2 * (short - fixed)


def test_the_high_estimate_is_of_the_longest_rows_that_may_come():
    short, long = memory_of(spec_of()), memory_of(spec_of(), length=512)
    assert short.high == long.high
    assert short.low < short.expected < short.high


def test_no_more_rows_than_there_are_go_into_a_micro_batch():
    assert memory_of(spec_of(), num_rows=2) == memory_of(
        spec_of(training={"micro_batch_size": 2}), num_rows=1000
    )


def test_a_type_that_was_not_measured_is_estimated_too():
    assert "no-such" not in KEPT
    unknown = replace(SIZE, shape=replace(BERT, model_type="no-such"))
    assert memory_of(spec_of(), unknown).expected > memory_of(spec_of()).low


def test_what_is_refused_at_once_is_less_than_what_is_expected():
    for changes in ({}, {"adapter": {"type": "lora"}}, {"training": {"optimizer": "sgd"}}):
        spec = spec_of(**changes)
        assert least_bytes(spec, num_weights=SIZE.num_weights) < memory_of(spec).low


def test_the_micro_batch_that_is_chosen_is_estimated_to_fit():
    facts = Facts(
        num_train_rows=1000,
        num_weights=SIZE.num_weights,
        max_positions=512,
        has_chat_template=False,
        device="cpu",
        device_memory_bytes=8 << 30,
        has_fast_bf16=False,
        shape=BERT,
    )
    free = spec_of(training={"batch_size": 256, "micro_batch_size": "auto"})
    chosen = resolve(free, facts).spec
    assert 1 < chosen.training.micro_batch_size < 256
    assert memory_of(chosen, length=512).expected < 8 << 30


def seconds_of(
    spec: Any, *, num_tokens: float = 1e6, num_measured_tokens: float = 0, **how: Any
) -> tuple[float, float, float]:
    found = estimate_seconds(
        spec,
        num_tokens=num_tokens,
        num_measured_tokens=num_measured_tokens,
        num_weights=85_000_000,
        device="cpu",
        **how,
    )
    assert found is not None
    return found


def test_time_is_told_where_the_speed_was_measured():
    spec = spec_of()
    low, expected, high = seconds_of(spec, num_threads=2)
    assert low < expected < high
    assert expected == pytest.approx(6 * 85e6 * 1e6 / (2 * DEVICES["cpu"].flops_per_second))
    how = {"num_tokens": 1e6, "num_measured_tokens": 0, "num_weights": 1}
    assert estimate_seconds(spec, device="cuda", **how) is None


def test_a_token_that_is_measured_takes_a_third_of_one_that_is_trained_on():
    trained = seconds_of(spec_of())[1]
    both = seconds_of(spec_of(), num_measured_tokens=1e6)[1]
    assert both == pytest.approx(trained * 4 / 3)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 3),  # after each epoch
        ({"training": {"epochs": 2.5}}, 3),
        ({"training": {"max_steps": 14}}, 2),  # of 13 steps each
        ({"evaluation": {"strategy": "steps", "steps": 10}}, 4),
        ({"evaluation": {"strategy": "steps", "steps": 100}}, 1),
        ({"evaluation": {"strategy": "no"}}, 1),
        ({"evaluation": {"baseline": True}}, 4),
    ],
)
def test_evaluations_are_counted(changes, expected):
    assert num_evaluations(spec_of(**changes), num_train_rows=100) == expected
