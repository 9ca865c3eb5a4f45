"""The one place where a spec becomes the arguments of `transformers.Trainer`."""

import importlib.util
import math
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from trainer_core.errors import FieldProblem, InvalidSpec
from trainer_core.spec import JobSpec
from trainer_core.training.devices import Device

_OPTIMIZER_PACKAGES = {
    "lion_32bit": "bitsandbytes",
    "adamw_8bit": "bitsandbytes",
    "paged_adamw_8bit": "bitsandbytes",
    "schedule_free_adamw": "schedulefree",
}


def training_arguments(
    spec: JobSpec, *, folder: Path, device: Device, num_steps: int, has_evaluation: bool
) -> TrainingArguments:
    """Return the Trainer's arguments for a resolved spec.

    Args:
        spec: without an `auto`.
        folder: where checkpoints go.
        device: what to train on.
        num_steps: optimizer steps in all.
        has_evaluation: whether there are rows to evaluate on.
    """
    training = spec.training
    _check_optimizer(training.optimizer)
    _check_precision(training.precision, device=device)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=num_steps,
        per_device_train_batch_size=training.batch_size,  # a step comes whole and is cut there
        gradient_accumulation_steps=1,
        **_optimization(spec, num_steps=num_steps),
        **_compute(spec, device=device),
        **_schedule(spec, has_evaluation=has_evaluation),
        **_silence(),
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # noqa: SLF001 - else DataParallel over all visible
    return arguments


def is_greater_better(spec: JobSpec) -> bool:
    """Return whether a larger value of the metric that chooses the best model is the better one."""
    return spec.metrics()[spec.evaluation.metric] == "higher"


def _optimization(spec: JobSpec, *, num_steps: int) -> dict[str, Any]:
    training = spec.training
    return {
        "learning_rate": training.learning_rate,
        "optim": training.optimizer,
        "adam_beta1": training.adam_beta1,
        "adam_beta2": training.adam_beta2,
        "adam_epsilon": training.adam_epsilon,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm or 0.0,
        # The Trainer's "constant" has no warm-up, and would ignore the spec's in silence.
        "lr_scheduler_type": (
            "constant_with_warmup" if training.scheduler == "constant" else training.scheduler
        ),
        "warmup_steps": math.ceil(training.warmup_ratio * num_steps),
        "neftune_noise_alpha": training.neftune_noise_alpha,
        "seed": training.seed,
        "data_seed": training.seed,
    }


def _compute(spec: JobSpec, *, device: Device) -> dict[str, Any]:
    training = spec.training
    return {
        "use_cpu": device.kind == "cpu",
        "bf16": training.precision == "bf16",
        "fp16": training.precision == "fp16",
        "activation_checkpointing": bool(training.gradient_checkpointing),
        "torch_compile": training.compile,
        "dataloader_num_workers": training.data_loader_workers,
        "dataloader_pin_memory": device.kind == "cuda",
        "per_device_eval_batch_size": spec.evaluation.batch_size,
        "remove_unused_columns": False,  # tasks hand over what the model takes
        "eval_do_concat_batches": False,  # each concatenation copies all that was kept before
    }


def _schedule(spec: JobSpec, *, has_evaluation: bool) -> dict[str, Any]:
    evaluation = spec.evaluation.strategy if has_evaluation else "no"
    saving, saving_steps = spec.checkpoints.strategy, spec.checkpoints.steps
    if saving == "evaluation":
        saving, saving_steps = evaluation, spec.evaluation.steps
        if evaluation == "no":
            saving, saving_steps = "epoch", None
    metric = spec.evaluation.metric
    return {
        "eval_strategy": evaluation,
        "eval_steps": spec.evaluation.steps,
        "save_strategy": saving,
        "save_steps": saving_steps or 1,
        "metric_for_best_model": metric,
        "greater_is_better": is_greater_better(spec),
        "load_best_model_at_end": False,  # the run loads it, also where save and eval steps differ
        "logging_steps": spec.training.log_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # it would hide that the loss diverged
    }


def _silence() -> dict[str, Any]:
    return {"report_to": "none", "disable_tqdm": True, "log_level": "error", "push_to_hub": False}


def _check_precision(precision: str, *, device: Device) -> None:
    if not device.computes(precision):
        problem = f"'{precision}' can't be computed on {device.name}"
        raise InvalidSpec([FieldProblem("/training/precision", problem, "Set it to 'auto'.")])


def _check_optimizer(name: str) -> None:
    package = _OPTIMIZER_PACKAGES.get(name)
    if package and importlib.util.find_spec(package) is None:
        problem = f"the optimizer '{name}' needs the package '{package}', which is not installed"
        raise InvalidSpec(
            [FieldProblem("/training/optimizer", problem, "Choose 'adamw_torch_fused'.")]
        )
