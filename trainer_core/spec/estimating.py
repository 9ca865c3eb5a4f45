"""How much memory a run takes: the one estimate behind every choice, answer and refusal.

    framework + weights, gradients and moments + what a micro-batch keeps for the backward pass

It is a pure function of a spec, the sizes of a model and a table of what was measured.
"""

from dataclasses import dataclass
from typing import Literal

from trainer_core.spec.measured import DEVICES, KEPT, USUAL
from trainer_core.spec.tasks import JobSpec

DeviceKind = Literal["cpu", "cuda", "mps"]

WEIGHT_BYTES = 4  # weights are trained in fp32, gradients and moments kept in it
_MOMENTS = {  # numbers that an optimizer keeps of each weight, in fp32; of others fewer, or smaller
    "adamw_torch": 2,
    "adamw_torch_fused": 2,
    "paged_adamw_32bit": 2,
    "stable_adamw": 2,
    "ademamix": 3,
    "lion_32bit": 1,
}
_FROZEN_BYTES = {"none": 4.0, "8bit": 1.2, "4bit": 0.7}  # of a weight beside an adapter
_BYTES_PER_TOKEN_AND_WEIGHT = 0.002
"""Kept for the backward pass where a model's shape is not known: a coarse fit to BERT and Llama
bodies of 20 M to 7 B weights."""
_BYTES_PER_LOGIT = 16  # in bf16 and fp32, the same again as probabilities and as gradient
_HALF_SHARE = 0.6  # of what is kept in fp32, where products are of 16 bits
_LOW_SHARE, _HIGH_SHARE = 0.8, 1.3  # how far a run may be from what is expected
_SPREAD = 3  # the same of times: machines differ, and are shared


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a model's layers."""

    model_type: str  # transformers' name
    num_layers: int
    hidden_size: int
    inner_size: int  # of the feed-forward part
    num_heads: int
    has_dropped_scores: bool  # dropout in the attention
    has_decoder_beside: bool = False  # as many layers read, and as many write


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What of a model makes it large."""

    num_weights: int
    num_trained: int | None = None  # None: all, or with an adapter as good as none
    shape: ModelShape | None = None
    num_logits_per_token: int = 0  # kept at each token: the vocabulary, or 0


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes at the peak."""

    low: int
    expected: int
    high: int


def estimate_memory(
    spec: JobSpec,
    size: ModelSize,
    *,
    device: DeviceKind,
    num_rows: int,
    length: int,
    most: int,
) -> Memory:
    """Return the peak of a run with a resolved spec.

    Args:
        spec: resolved.
        size: of the model.
        device: on which it runs.
        num_rows: that there are to train on.
        length: tokens of the longest row.
        most: tokens that a row may have at all.
    """
    assert spec.training.micro_batch_size != "auto", "the spec is resolved before"
    micro_batch = min(spec.training.micro_batch_size, num_rows)
    figures = DEVICES[device]
    fixed = figures.framework_bytes + state_bytes(spec, size)
    fixed += figures.adapter_bytes if spec.adapter else 0
    rows = micro_batch * row_bytes(spec, size, device=device, length=length)
    highest = micro_batch * row_bytes(spec, size, device=device, length=most)
    return Memory(
        low=round(_LOW_SHARE * (fixed + rows)),
        expected=round(fixed + rows),
        high=round(_HIGH_SHARE * (fixed + max(rows, highest))),
    )


def least_bytes(spec: JobSpec, *, num_weights: int) -> int:
    """Return what no run of a spec can do without, whatever is left open: its weights' state."""
    return round(_LOW_SHARE * state_bytes(spec, ModelSize(num_weights)))


def num_moments(optimizer: str) -> int:
    """Return how many numbers of four bytes an optimizer keeps of each weight, at the least."""
    return _MOMENTS.get(optimizer, 0)


def state_bytes(spec: JobSpec, size: ModelSize) -> float:
    """Return the bytes of weights, gradients and moments."""
    adapter = spec.adapter
    trained = size.num_trained
    if trained is None:
        trained = 0 if adapter else size.num_weights
    frozen = size.num_weights - min(trained, size.num_weights)
    of_trained = WEIGHT_BYTES * (2 + num_moments(spec.training.optimizer))
    return (
        trained * of_trained + frozen * _FROZEN_BYTES[adapter.quantization if adapter else "none"]
    )


def row_bytes(spec: JobSpec, size: ModelSize, *, device: DeviceKind, length: int) -> float:
    """Return what one row of a micro-batch keeps for the backward pass.

    Args:
        spec: whose `max_length` is resolved.
        size: of the model.
        device: on which it runs.
        length: tokens of the row; of an encoder with a decoder those of both.
    """
    kept = _kept_bytes(spec, size, device=device, length=length)
    scored = min(length, spec.num_scored_tokens)
    logits = size.num_logits_per_token * _BYTES_PER_LOGIT * scored
    return spec.num_sequences * (kept + logits)


def _kept_bytes(spec: JobSpec, size: ModelSize, *, device: DeviceKind, length: int) -> float:
    shape = size.shape
    if shape is None:
        return size.num_weights * _BYTES_PER_TOKEN_AND_WEIGHT * length
    kept = KEPT.get(shape.model_type, USUAL)
    num_tokens = length / 2 if shape.has_decoder_beside else length
    is_dropped = shape.has_dropped_scores and device == "cpu"  # fused attention of GPUs drops too
    per_score = kept.per_dropped_score if is_dropped else kept.per_score
    of_layer = num_tokens * (
        kept.per_hidden * shape.hidden_size
        + kept.per_inner * shape.inner_size
        + per_score * shape.num_heads * num_tokens
    )
    if spec.training.precision in ("bf16", "fp16"):
        of_layer *= _HALF_SHARE
    # One layer more, for the gradients on their way through it.
    if spec.training.gradient_checkpointing is True:
        of_input = num_tokens * WEIGHT_BYTES * shape.hidden_size
        return shape.num_layers * of_input + 2 * of_layer
    return (shape.num_layers + 1) * of_layer


def estimate_seconds(
    spec: JobSpec,
    *,
    num_tokens: float,
    num_measured_tokens: float,
    num_weights: int,
    device: DeviceKind,
    num_threads: int = 1,
) -> tuple[float, float, float] | None:
    """Return how long training takes at the least, as expected and at the most; None: not known.

    Args:
        spec: resolved.
        num_tokens: that are trained on in all.
        num_measured_tokens: that evaluations read in all. Text that they generate is not foreseen.
        num_weights: that each token goes through.
        device: whose speed was measured.
        num_threads: of the CPU.
    """
    speed = DEVICES[device].flops_per_second
    if speed is None:
        return None
    # Of a product and its sum each: the pass forward, the gradients of what is inside, and those
    # of the weights, which frozen ones don't have.
    flops_per_weight = 4 if spec.adapter else 6
    if spec.training.gradient_checkpointing is True:
        flops_per_weight += 2
    flops = num_weights * (num_tokens * flops_per_weight + num_measured_tokens * 2)
    expected = flops / (speed * num_threads)
    return expected / _SPREAD, expected, expected * _SPREAD
