"""Low-rank adapters (LoRA, Hu et al. 2021; DoRA, Liu et al. 2024) through peft.

peft is imported here alone, and only for jobs that ask for an adapter: importing it takes seconds.
"""

import copy
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import PreTrainedModel

from trainer_core.errors import FieldProblem, InvalidSpec
from trainer_core.spec.parts import AdapterSpec
from trainer_core.training.models.base_model import BaseModel, load_model
from trainer_core.training.recipes.recipe import Recipe

if TYPE_CHECKING:
    from peft import PeftModel


def add_adapter(recipe: Recipe, adapter: AdapterSpec) -> "PeftModel":
    """Return the recipe's model with a new adapter, its own weights frozen."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    names = adapter.target_modules
    settings = LoraConfig(
        task_type=recipe.adapter_task,
        r=adapter.r,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=names if isinstance(names, str) else list(names),
        use_dora=adapter.type == "dora",
        # Without this the random start of a new head would be lost with the base model.
        modules_to_save=list(recipe.new_modules) or None,
    )
    if not isinstance(names, str):
        _check_names(recipe.model, names)
    model = recipe.model
    if adapter.quantization != "none":
        # Norms and embeddings in fp32; the Trainer sees to gradient checkpointing.
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    with warnings.catch_warnings():
        # peft 0.21 asks models by a name that transformers 5.23 calls deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        return cast("PeftModel", get_peft_model(model, settings))


def merge_adapter(model: Any, base: BaseModel) -> PreTrainedModel:
    """Return the model with its adapter worked into the weights.

    Args:
        model: a peft model.
        base: what it stands on. If that was quantized, the adapter goes into its weights as they
            are on disk: rounding the sum again would cost more than the adapter gains.
    """
    if base.quantizing is not None:
        model = _on_whole_weights(model, base)
    return cast("PreTrainedModel", model.merge_and_unload(safe_merge=True))


def _on_whole_weights(model: Any, base: BaseModel) -> Any:
    from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

    quantized = model.get_base_model()
    config = copy.deepcopy(quantized.config)
    del config.quantization_config
    loaded = load_model(
        replace(base, config=config, quantizing=None),
        type(quantized),
        changes={},
        seed=0,  # what is new comes with the adapter
        is_head_new=True,
    )
    if quantized.can_generate():
        loaded.model.generation_config = quantized.generation_config
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # as above
        whole = PeftModel(loaded.model, model.peft_config[model.active_adapter])
    weights = get_peft_model_state_dict(model)
    set_peft_model_state_dict(whole, {name: weight.cpu() for name, weight in weights.items()})
    return whole


def _check_names(model: PreTrainedModel, names: tuple[str, ...]) -> None:
    """Raise InvalidSpec for a name that no linear layer has; peft asks only that one of all has."""
    linear = sorted(
        {
            name
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"
        }
    )
    for name in names:
        if not any(full == name or full.endswith(f".{name}") for full in linear):
            known = ", ".join(sorted({full.rpartition(".")[2] for full in linear}))
            problem = f"the model has no linear layer '{name}'; it has: {known}"
            raise InvalidSpec(
                [FieldProblem("/adapter/target_modules", problem, "Name some, or 'all-linear'.")]
            )
