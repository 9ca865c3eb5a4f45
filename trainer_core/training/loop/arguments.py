"""The one place where a spec becomes the arguments of `transformers.Trainer`."""

import importlib.util
import math
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from trainer_core.errors import FieldProblem, InvalidSpec
from trainer_core.spec import JobSpec
from trainer_core.spec.parts import TrainingSpec
from trainer_core.training.process.devices import Device
from trainer_core.training.process.processes import num_processes

# Beginning of an optimizer's name -> the module that has it, and the package that brings that.
_OPTIMIZER_PACKAGES = {
    "lion": ("bitsandbytes", "bitsandbytes"),
    "paged": ("bitsandbytes", "bitsandbytes"),
    "adamw_8bit": ("bitsandbytes", "bitsandbytes"),
    "ademamix": ("bitsandbytes", "bitsandbytes"),
    "schedule_free": ("schedulefree", "schedulefree"),
    "stable_adamw": ("optimi", "torch-optimi"),
}
_MIN_LR_RATIO = 0.1  # of a cosine that does not fall to zero
_DECAY_RATIO = 0.1  # of all steps, for warm-up, plateau and decay


def check_arguments(spec: JobSpec, *, device: Device) -> None:
    """Raise InvalidSpec for what a resolved spec asks of a device, or of a package, in vain."""
    _check_optimizer(spec.training.optimizer)
    _check_compiler(spec.training)
    _check_precision(spec.training.precision, device=device)
    _check_tf32(spec, device=device)
    if num_processes() == 1:
        return
    match spec.resources.parallel.strategy:
        case "fsdp":
            _check_fsdp(spec, device=device)
        case "deepspeed":
            _check_deepspeed()


def training_arguments(
    spec: JobSpec,
    *,
    folder: Path,
    device: Device,
    num_steps: int,
    has_evaluation: bool,
    layers: Sequence[str] = (),
) -> TrainingArguments:
    """Return the Trainer's arguments for a resolved spec.

    Args:
        spec: without an `auto`, and checked.
        folder: where checkpoints go.
        device: what to train on.
        num_steps: optimizer steps in all.
        has_evaluation: whether there are rows to evaluate on.
        layers: classes of the model's layers, by which several processes share it out.
    """
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=num_steps,
        per_device_train_batch_size=spec.training.batch_size,  # a step comes whole and is cut there
        gradient_accumulation_steps=1,
        **_optimization(spec, num_steps=num_steps),
        **{**_compute(spec, device=device), **_parallel(spec, layers=layers)},
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
        "lr_scheduler_type": _scheduler(training),
        "lr_scheduler_kwargs": _scheduler_options(spec, num_steps=num_steps),
        "warmup_steps": math.ceil(training.warmup_ratio * num_steps),
        "neftune_noise_alpha": training.neftune_noise_alpha,
        "seed": training.seed,
        "data_seed": training.seed,
    }


def _scheduler(training: TrainingSpec) -> str:
    if training.optimizer.startswith("schedule_free"):
        return "constant"  # it averages, and warms up by itself
    # The Trainer's "constant" has no warm-up, and would ignore the spec's in silence.
    return "constant_with_warmup" if training.scheduler == "constant" else training.scheduler


def _scheduler_options(spec: JobSpec, *, num_steps: int) -> dict[str, Any]:
    """Return the options by the names that the Trainer's schedulers have for them."""
    training = spec.training
    options = training.scheduler_options
    assert training.learning_rate != "auto", "the spec is resolved before"
    min_rate = (
        None if options.min_lr_ratio is None else options.min_lr_ratio * training.learning_rate
    )
    found: dict[str, Any] = {}
    match _scheduler(training):
        case "cosine":
            found = {"num_cycles": options.num_cycles}
        case "cosine_with_restarts":
            found = {"num_cycles": options.num_cycles and int(options.num_cycles)}
        case "polynomial":
            found = {"power": options.power, "lr_end": min_rate}
        case "inverse_sqrt":
            found = {"timescale": options.timescale_steps}
        case "cosine_with_min_lr":
            ratio = _MIN_LR_RATIO if options.min_lr_ratio is None else options.min_lr_ratio
            found = {"num_cycles": options.num_cycles, "min_lr_rate": ratio}
        case "warmup_stable_decay":
            num_decay = math.ceil((options.decay_ratio or _DECAY_RATIO) * num_steps)
            num_warmup = math.ceil(training.warmup_ratio * num_steps)
            found = {
                "num_decay_steps": min(num_decay, num_steps - num_warmup),
                "decay_type": options.decay_type or "1-sqrt",
                "min_lr_ratio": options.min_lr_ratio,
            }
        case "reduce_lr_on_plateau":
            found = {
                "mode": "max" if is_greater_better(spec) else "min",
                "factor": options.factor,
                "patience": options.patience,
                "min_lr": min_rate,
                "eps": 0.0,  # else a rate of 1e-8 never falls
            }
    return {name: value for name, value in found.items() if value is not None}


def _compute(spec: JobSpec, *, device: Device) -> dict[str, Any]:
    training = spec.training
    return {
        "use_cpu": device.kind == "cpu",
        "bf16": training.precision == "bf16",
        "fp16": training.precision == "fp16",
        "tf32": training.tf32 if device.kind == "cuda" else None,
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
        **_logging(spec.training.log_steps),
        "logging_nan_inf_filter": False,  # it would hide that the loss diverged
    }


def _logging(steps: int | str) -> dict[str, Any]:
    if steps == "epoch":
        return {"logging_strategy": "epoch"}
    return {"logging_steps": steps, "logging_first_step": True}


def _parallel(spec: JobSpec, *, layers: Sequence[str]) -> dict[str, Any]:
    """Return how several processes share the model; nothing for a single one."""
    parallel = spec.resources.parallel
    if num_processes() == 1:
        return {}
    match parallel.strategy:
        case "ddp":
            return {}
        case "fsdp":
            if not layers:
                raise _no_fsdp("the model has no stack of layers to share out")
            settings = {
                "version": 2,
                "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
                # By default also embeddings, of which some would be shared out twice.
                "transformer_layer_cls_to_wrap": list(layers),
                "reshard_after_forward": parallel.reshard is not False,
                "cpu_offload": parallel.offload == "all",
                "state_dict_type": "FULL_STATE_DICT",
                "activation_checkpointing": bool(spec.training.gradient_checkpointing),
            }
            # FSDP's own way to recompute, in place of the Trainer's.
            return {"fsdp": True, "fsdp_config": settings, "activation_checkpointing": False}
        case "deepspeed":
            return {"deepspeed": deepspeed_settings(spec)}


def _no_fsdp(why: str) -> InvalidSpec:
    problem = FieldProblem("/resources/parallel/strategy", why, "Set it to 'ddp'.")
    return InvalidSpec([problem])


def deepspeed_settings(spec: JobSpec) -> dict[str, Any]:
    """Return DeepSpeed's configuration; `auto` is filled in by the Trainer from its arguments."""
    parallel = spec.resources.parallel
    zero: dict[str, Any] = {
        "stage": parallel.zero_stage or 2,
        "overlap_comm": True,
        "contiguous_gradients": True,
    }
    if parallel.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if parallel.offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    if zero["stage"] == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    return {
        "zero_optimization": zero,
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "gradient_clipping": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": 1,  # a step comes whole and is cut in the loop
    }


def _check_fsdp(spec: JobSpec, *, device: Device) -> None:
    if device.kind != "cuda":
        raise _no_fsdp(f"accelerate does not share out a model on {device.name}")
    if spec.training.optimizer == "sgd":
        # torch 2.13 finds no device in a state that is empty.
        raise _no_fsdp("the optimizer 'sgd' can't be resumed with 'fsdp'")


def _check_deepspeed() -> None:
    if importlib.util.find_spec("deepspeed") is None:
        problem = "the package 'deepspeed' is not installed"
        hint = "Choose 'fsdp', which needs no package."
        raise InvalidSpec([FieldProblem("/resources/parallel/strategy", problem, hint)])


def _silence() -> dict[str, Any]:
    return {"report_to": "none", "disable_tqdm": True, "log_level": "error", "push_to_hub": False}


def _check_compiler(training: TrainingSpec) -> None:
    named = "clang++" if sys.platform == "darwin" else "g++"  # as torch looks for it
    compiler = os.environ.get("CXX", named)
    if training.compile and shutil.which(compiler) is None:
        problem = f"torch.compile needs a C++ compiler, and this worker has no '{compiler}'"
        hint = f"Leave it off, or install {named} on the worker (or set CXX to a compiler)."
        raise InvalidSpec([FieldProblem("/training/compile", problem, hint)])


def _check_precision(precision: str, *, device: Device) -> None:
    if not device.computes(precision):
        problem = f"'{precision}' can't be computed on {device.name}"
        raise InvalidSpec([FieldProblem("/training/precision", problem, "Set it to 'auto'.")])


def _check_tf32(spec: JobSpec, *, device: Device) -> None:
    if spec.training.tf32 is True and not device.has_tf32:
        problem = f"{device.name} has no TF32"
        raise InvalidSpec([FieldProblem("/training/tf32", problem, "Set it to 'auto'.")])


def _check_optimizer(name: str) -> None:
    for beginning, (module, package) in _OPTIMIZER_PACKAGES.items():
        if name.startswith(beginning) and importlib.util.find_spec(module) is None:
            problem = (
                f"the optimizer '{name}' needs the package '{package}', which is not installed"
            )
            hint = "Choose 'adamw_torch_fused'."
            raise InvalidSpec([FieldProblem("/training/optimizer", problem, hint)])
