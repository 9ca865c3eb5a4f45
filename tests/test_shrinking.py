"""What a job that ran out of memory is advised, mildest change first."""

import pytest

from trainer_core.spec import Choice, Facts, half_micro_batch, parse_spec, relief_of, resolve
from trainer_core.spec.parsing import unused
from trainer_core.spec.resolving import CANNOT_RECOMPUTE
from trainer_core.spec.shrinking import relief, with_micro_batch

MINIMAL = {
    "task": "text-classification",
    "model": "model:tiny",
    "data": {"train": "dataset:ds_0123456789ab"},
}


def spec_of(*, evaluation=None, max_length=128, resources=None, **training):
    return parse_spec(
        {
            **MINIMAL,
            "training": training,
            "max_length": max_length,
            "evaluation": evaluation or {},
            "resources": resources or {},
        }
    )


def advice(spec):
    return relief(spec, resolved=spec)


@pytest.mark.parametrize(
    ("batch", "micro", "half"),
    [(24, 24, 12), (24, 8, 4), (24, 3, 1), (18, 9, 3), (7, 7, 1), (16, "auto", 8), (8, 1, None)],
)
def test_half_a_micro_batch_divides_the_batch(batch, micro, half):
    assert half_micro_batch(spec_of(batch_size=batch, micro_batch_size=micro)) == half


def test_half_the_micro_batch_comes_first_and_all_else_stays():
    spec = spec_of(batch_size=24, micro_batch_size=24, learning_rate=1e-3)
    found = advice(spec)
    assert "micro_batch_size to 12; the result stays the same" in found.hint
    assert found.spec == with_micro_batch(spec, 12)
    changed = {name for name, value in found.spec.training if value != getattr(spec.training, name)}
    assert changed == {"micro_batch_size"}


def test_an_evaluation_in_large_batches_shrinks_too():
    spec = spec_of(batch_size=16, micro_batch_size=8, evaluation={"batch_size": 64})
    assert advice(spec).spec.evaluation.batch_size == 8
    spec = spec_of(batch_size=16, micro_batch_size=8, evaluation={"batch_size": 4})
    assert advice(spec).spec.evaluation.batch_size == 4


def test_then_activations_are_computed_again_if_the_model_can():
    spec = spec_of(batch_size=8, micro_batch_size=1)
    found = advice(spec)
    assert "gradient_checkpointing" in found.hint
    assert found.spec.training.gradient_checkpointing is True
    cannot = [Choice("/training/gradient_checkpointing", False, CANNOT_RECOMPUTE)]
    assert "max_length to 64" in relief(spec, resolved=spec, choices=cannot).hint


def test_what_changes_the_result_is_advice_alone():
    found = advice(spec_of(batch_size=8, micro_batch_size=1, gradient_checkpointing=True))
    assert "max_length to 64" in found.hint
    assert found.spec is None
    found = advice(
        spec_of(batch_size=8, micro_batch_size=1, gradient_checkpointing=True, max_length=8)
    )
    assert "adapter" in found.hint


def test_what_was_left_open_stays_open_in_the_spec_to_post():
    given = spec_of(batch_size=8, max_length="auto")
    facts = Facts(
        num_train_rows=100,
        num_weights=10**6,
        max_positions=None,
        has_chat_template=False,
        device="cpu",
        device_memory_bytes=None,
        has_fast_bf16=False,
    )
    resolution = resolve(given, facts)
    told = {
        "spec": resolution.spec.model_dump(mode="json"),
        "choices": [
            {"pointer": one.pointer, "value": one.value, "why": one.why}
            for one in resolution.choices
        ],
    }
    found = relief_of(given, told)
    assert found.spec == spec_of(batch_size=8, micro_batch_size=4, max_length="auto")


@pytest.mark.parametrize("training", [{"batch_size": 1}, {"batch_size": 8, "micro_batch_size": 1}])
def test_shrinking_a_single_row_is_told_as_unused(training):
    (problem,) = unused(spec_of(resources={"on_oom": "shrink"}, **training))
    assert problem.pointer == "/resources/on_oom"
    assert not list(unused(spec_of(resources={"on_oom": "shrink"}, batch_size=8)))
