"""Every `"auto"` of a spec, decided by one pure function that says what it chose and why."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from trainer_core.spec.estimating import (
    DeviceKind,
    ModelShape,
    ModelSize,
    row_bytes,
    state_bytes,
)
from trainer_core.spec.parsing import parse_spec
from trainer_core.spec.tasks import JobSpec

_NUM_LOG_RECORDS = 200
_USUAL_TARGET_TOKENS = 128
_BF16_WEIGHTS_ON_CPU = 5_000_000  # of smaller models it takes longer to convert than it saves
_MEMORY_SHARE = 0.8  # the rest is for the framework, and for what the estimate is short of
_PASSES_OF_TRAINING = 3  # a backward pass computes twice what a forward pass does
_MAX_BASELINE_SHARE = 0.1

_Chosen = tuple[Any, str]

CANNOT_RECOMPUTE = "the model does not support it"
"""Why gradient checkpointing is off where it can't be on."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the choices depend on: the rows, the model and the device."""

    num_train_rows: int
    num_weights: int
    max_positions: int | None  # tokens the model can take; None for no limit
    has_chat_template: bool
    device: DeviceKind
    device_memory_bytes: int | None  # None where unknown
    has_fast_bf16: bool
    num_eval_rows: int = 0
    num_logits_per_token: int = 0  # kept at each token: the vocabulary of a language model, or 0
    num_processes: int = 1  # that share each optimizer step, a device each
    can_recompute: bool = True  # the model supports gradient checkpointing
    shape: ModelShape | None = None  # of the model's layers, where it is known
    num_trained: int | None = None  # weights that are trained, where they are counted
    has_flash_attention: bool = False  # the device, the model and what is installed have it
    pooling: str = "mean"  # how the tokens' vectors become one
    is_normalized: bool = True  # whether that one has a length of 1
    is_embedding_model: bool = False  # the two above are what the base model's own files say

    @property
    def size(self) -> ModelSize:
        """What of the model makes it large."""
        return ModelSize(
            num_weights=self.num_weights,
            num_trained=self.num_trained,
            shape=self.shape,
            num_logits_per_token=self.num_logits_per_token,
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """One `auto` field, what it became and why."""

    pointer: str
    value: str | int | float | bool
    why: str


@dataclass(frozen=True, slots=True)
class Resolution:
    """A spec without an `auto`, and the choices made."""

    spec: JobSpec
    choices: tuple[Choice, ...]


def resolve(spec: JobSpec, facts: Facts) -> Resolution:
    """Return the spec with every `auto` decided. The same arguments give the same answer."""
    values = spec.model_dump(mode="json")
    choices = []
    for pointer, choose in _CHOICES:
        *parents, name = pointer.strip("/").split("/")
        part = values
        for parent in parents:
            part = part.get(parent, {})  # not all tasks have all parts
        if part.get(name) == "auto":
            part[name], why = choose(parse_spec(values), facts)
            choices.append(Choice(pointer, part[name], why))
    return Resolution(parse_spec(values), tuple(choices))


def num_optimizer_steps(spec: JobSpec, *, num_train_rows: int) -> int:
    """Return how many optimizer steps the spec asks for."""
    if spec.training.max_steps is not None:
        return spec.training.max_steps
    steps_per_epoch = -(-num_train_rows // spec.training.batch_size)
    return max(1, round(steps_per_epoch * spec.training.epochs))


def num_evaluations(spec: JobSpec, *, num_train_rows: int) -> int:
    """Return how often a run with a resolved spec measures its evaluation rows, if it has any."""
    num_steps = num_optimizer_steps(spec, num_train_rows=num_train_rows)
    match spec.evaluation.strategy:
        case "epoch":
            apart = -(-num_train_rows // spec.training.batch_size)
        case "steps":
            assert spec.evaluation.steps is not None, "the strategy goes with steps"
            apart = spec.evaluation.steps
        case "no":
            apart = num_steps
    # The last step is always followed by one; a baseline comes before the first.
    return -(-num_steps // apart) + (spec.evaluation.baseline is True)


def usual_learning_rate(spec: JobSpec) -> _Chosen:
    """Return the learning rate of a spec that leaves it open, and why."""
    of_all_weights, of_adapter = spec.usual_rates
    if spec.adapter:
        return of_adapter, f"the usual for low-rank adapters in {spec.task}"
    if spec.scratch is not None:
        return 5e-4, "the usual for random weights"
    return of_all_weights, f"the usual for training all weights in {spec.task}"


def _learning_rate(spec: JobSpec, _: Facts) -> _Chosen:
    return usual_learning_rate(spec)


def _max_length(spec: JobSpec, facts: Facts) -> _Chosen:
    cap = spec.max_length_tokens
    if facts.max_positions is not None and facts.max_positions <= cap:
        return facts.max_positions, "the most that the model can take"
    return cap, "enough for most rows; longer ones cost memory that grows with their length"


def _max_target_length(_: JobSpec, facts: Facts) -> _Chosen:
    if facts.max_positions is not None and facts.max_positions <= _USUAL_TARGET_TOKENS:
        return facts.max_positions, "the most that the model can take"
    return _USUAL_TARGET_TOKENS, "enough for a few sentences"


def _max_new_tokens(spec: Any, _: Facts) -> _Chosen:
    return spec.max_target_length, "as many as are kept of a target"


def _chat_template(_: JobSpec, facts: Facts) -> _Chosen:
    if facts.has_chat_template:
        return "model", "the tokenizer has a chat template"
    return "chatml", "the tokenizer has no chat template"


def _packing(spec: JobSpec, facts: Facts) -> _Chosen:
    if facts.has_flash_attention and spec.training.precision == "bf16":
        return True, "flash attention computes packed rows without waste"
    return False, "rows of like length share a batch, and a mask over packed rows costs more"


def _pooling(_: JobSpec, facts: Facts) -> _Chosen:
    if facts.is_embedding_model:
        return facts.pooling, "the base model's own"
    if facts.pooling == "last":
        return "last", "the only token that a language model has read all others for"
    return facts.pooling, "the usual for a model that has none of its own"


def _normalize(_: JobSpec, facts: Facts) -> _Chosen:
    if facts.is_embedding_model:
        return facts.is_normalized, "the base model's own"
    return facts.is_normalized, "so that dot products are cosines"


def _precision(_: JobSpec, facts: Facts) -> _Chosen:
    if facts.device == "cuda" and facts.has_fast_bf16:
        return "bf16", "the device computes bf16 natively"
    if facts.device == "cuda":
        return "fp32", "the device has no native bf16, and fp16 can overflow"
    if facts.device == "cpu" and facts.has_fast_bf16 and facts.num_weights >= _BF16_WEIGHTS_ON_CPU:
        return "bf16", "the processor multiplies matrices of bf16 in units of their own"
    return "fp32", f"the surest on {facts.device}"


def _fitting_micro_batch(spec: JobSpec, facts: Facts) -> int:
    """Return the largest divisor of the batch whose activations are estimated to fit."""
    assert spec.max_length != "auto", "max_length is chosen before the micro-batch"
    if facts.device_memory_bytes is None:
        return spec.training.batch_size
    free = facts.device_memory_bytes * _MEMORY_SHARE - state_bytes(spec, facts.size)
    of_row = row_bytes(spec, facts.size, device=facts.device, length=spec.num_row_tokens)
    fitting = max(1, int(max(0.0, free) / of_row))
    batch = spec.training.batch_size
    return next(size for size in range(min(batch, fitting), 0, -1) if batch % size == 0)


def _gradient_checkpointing(spec: JobSpec, facts: Facts) -> _Chosen:
    if not facts.can_recompute:
        return False, CANNOT_RECOMPUTE
    if facts.device_memory_bytes is None or _fitting_micro_batch(spec, facts) > 1:
        return False, "activations are estimated to fit without it"
    if spec.training.batch_size == 1:
        return False, "the batch is one row"
    return True, "not even two rows' activations are estimated to fit without it"


def _tf32(spec: JobSpec, facts: Facts) -> _Chosen:
    if facts.device != "cuda" or not facts.has_fast_bf16:  # both came with Ampere
        return False, "the device does not have it"
    if spec.training.precision == "fp32":
        return False, "fp32 is computed in full"
    return True, "for the products that precision leaves in fp32"


def _micro_batch_size(spec: JobSpec, facts: Facts) -> _Chosen:
    size = _fitting_micro_batch(spec, facts)
    if size == spec.training.batch_size:
        return size, "the whole batch is estimated to fit"
    return size, "the largest divisor of the batch that is estimated to fit"


def _eval_batch_size(spec: JobSpec, facts: Facts) -> _Chosen:
    assert spec.training.micro_batch_size != "auto", "the micro-batch is chosen first"
    if facts.num_logits_per_token:
        return spec.training.micro_batch_size, "the micro-batch: most memory is the logits' own"
    return 2 * spec.training.micro_batch_size, "twice the micro-batch: nothing is kept for backward"


def _metric(spec: JobSpec, _: Facts) -> _Chosen:
    return next(iter(spec.metrics())), f"the main metric of {spec.task}"


def _log_steps(spec: JobSpec, facts: Facts) -> _Chosen:
    steps = num_optimizer_steps(spec, num_train_rows=facts.num_train_rows)
    return max(1, steps // _NUM_LOG_RECORDS), f"about {_NUM_LOG_RECORDS} records over {steps} steps"


def _baseline(spec: JobSpec, facts: Facts) -> _Chosen:
    if not facts.num_eval_rows:
        return False, "there are no rows to evaluate on"
    if spec.is_generating:
        return False, "measuring this task generates text, which takes long"
    steps = num_optimizer_steps(spec, num_train_rows=facts.num_train_rows)
    num_passes = steps * spec.training.batch_size * _PASSES_OF_TRAINING
    share = facts.num_eval_rows / num_passes
    if share > _MAX_BASELINE_SHARE:
        return False, f"it would take about {share:.0%} of the time of training"
    return True, "it is cheap beside training, and says what training gains"


def _gpus(_: JobSpec, facts: Facts) -> _Chosen:
    if facts.device == "cpu":
        return 0, "the worker has no GPU"
    return facts.num_processes, "the worker's device" + ("s" if facts.num_processes > 1 else "")


_CHOICES: tuple[tuple[str, Callable[[JobSpec, Facts], _Chosen]], ...] = (
    # In this order: later ones look at what earlier ones chose.
    ("/max_length", _max_length),
    ("/max_target_length", _max_target_length),
    ("/generation/max_new_tokens", _max_new_tokens),
    ("/chat_template", _chat_template),
    ("/pooling", _pooling),
    ("/normalize", _normalize),
    ("/resources/gpus", _gpus),
    ("/training/learning_rate", _learning_rate),
    ("/training/precision", _precision),
    ("/training/tf32", _tf32),
    ("/packing", _packing),
    ("/training/gradient_checkpointing", _gradient_checkpointing),
    ("/training/micro_batch_size", _micro_batch_size),
    ("/training/log_steps", _log_steps),
    ("/evaluation/batch_size", _eval_batch_size),
    ("/evaluation/metric", _metric),
    ("/evaluation/baseline", _baseline),
)


def auto_pointers() -> Iterator[str]:
    """Yield the pointer of every field that `resolve` decides."""
    return (pointer for pointer, _ in _CHOICES)
