"""Specs that need less memory, for a job that ran out of it: the mildest change first."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trainer_core.spec.parsing import parse_spec
from trainer_core.spec.resolving import CANNOT_RECOMPUTE, Choice
from trainer_core.spec.tasks import JobSpec

_LEAST_LENGTH = 8


@dataclass(frozen=True, slots=True)
class Relief:
    """What to do about a job that ran out of memory while it trained."""

    hint: str
    spec: JobSpec | None  # the job's with that done, where it leaves the result as it is


def half_micro_batch(spec: JobSpec) -> int | None:
    """Return the largest divisor of the batch up to half the micro-batch; None of a single row."""
    training = spec.training
    micro = training.micro_batch_size
    size = training.batch_size if micro == "auto" else micro
    return next((n for n in range(size // 2, 0, -1) if training.batch_size % n == 0), None)


def with_micro_batch(spec: JobSpec, size: int) -> JobSpec:
    """Return a spec with another micro-batch, and an evaluation that needs no more memory."""
    values = spec.model_dump(mode="json")
    values["training"]["micro_batch_size"] = size
    evaluation = values["evaluation"]
    if evaluation["batch_size"] != "auto":
        evaluation["batch_size"] = min(evaluation["batch_size"], 2 * size)
    return parse_spec(values)


def relief(given: JobSpec, *, resolved: JobSpec, choices: Iterable[Choice] = ()) -> Relief:
    """Return the mildest change that makes a run need less memory.

    Args:
        given: what was asked for; what it left open stays open.
        resolved: what was tried.
        choices: made for `resolved`; they say what the model can't do.
    """
    if size := half_micro_batch(resolved):
        hint = f"Set training.micro_batch_size to {size}; the result stays the same."
        return Relief(hint, with_micro_batch(given, size))
    can_recompute = all(choice.why != CANNOT_RECOMPUTE for choice in choices)
    if resolved.training.gradient_checkpointing is not True and can_recompute:
        hint = "Set training.gradient_checkpointing to true; the result stays the same."
        values = with_micro_batch(given, 1).model_dump(mode="json")
        values["training"]["gradient_checkpointing"] = True
        return Relief(hint, parse_spec(values))
    length = resolved.max_length
    if length != "auto" and length > _LEAST_LENGTH:
        shorter = max(_LEAST_LENGTH, length // 2)
        return Relief(f"Set max_length to {shorter}; longer rows are cut.", None)
    return Relief("Train an adapter, choose a smaller model, or a worker with more memory.", None)


def relief_of(given: JobSpec, resolution: Mapping[str, Any]) -> Relief:
    """Return the same, from what `resolved.json` says was tried."""
    choices = [Choice(**choice) for choice in resolution["choices"]]
    return relief(given, resolved=parse_spec(resolution["spec"]), choices=choices)
