"""The finished model: safetensors, tokenizer, label names and card, whole or absent."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer_core.redaction import REDACTOR
from trainer_core.run_directory import write_json
from trainer_core.training.process.directories import whole_or_absent

_ADAPTER_CONFIG = "adapter_config.json"

Weights = dict[str, torch.Tensor]
AddFiles = Callable[[Path], None]  # into the folder it is given


def save_model(
    model: PreTrainedModel,
    *,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    card: str,
    use_cache: bool | None,
    weights: Weights | None,
    add_files: AddFiles,
) -> None:
    """Write a model that plain `from_pretrained` loads.

    Args:
        model: what to save, in memory.
        tokenizer: goes with it, chat template and all.
        folder: where; it appears whole and sealed.
        card: text of README.md.
        use_cache: the base model's setting, which training turns off; None if it had none.
        weights: the whole ones, where the model has a share of them.
        add_files: writes what else belongs to it.
    """
    if use_cache is not None:
        model.config.use_cache = use_cache
    elif hasattr(model.config, "use_cache"):
        del model.config.use_cache
    with whole_or_absent(folder) as partial:
        model.save_pretrained(partial, state_dict=weights)
        tokenizer.save_pretrained(partial)
        (partial / "README.md").write_text(REDACTOR.text(card), encoding="utf-8")
        add_files(partial)


def whole_weights(trainer: Any) -> Weights | None:
    """Return the weights of a model that is shared out among processes; None if each has it whole.

    All processes have to ask; the first one gets them.
    """
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        return None
    weights: Weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    return weights


def save_adapter(
    model: Any,
    *,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    card: str,
    base_model: str,
    classes: Sequence[str],
    add_files: AddFiles,
) -> None:
    """Write an adapter alone.

    Args:
        model: a peft model.
        tokenizer: goes with it.
        folder: where; it appears whole and sealed.
        card: text of README.md.
        classes: label names, if the task has any.
        base_model: name of the model that the adapter belongs to; never a path of this machine.
        add_files: writes what else belongs to it.
    """
    with whole_or_absent(folder) as partial:
        model.save_pretrained(partial, save_embedding_layers=False)
        tokenizer.save_pretrained(partial)
        config = json.loads((partial / _ADAPTER_CONFIG).read_text(encoding="utf-8"))
        write_json(partial / _ADAPTER_CONFIG, config | {"base_model_name_or_path": base_model})
        if classes:  # an adapter has no config.json to hold them
            write_json(partial / "labels.json", {"id2label": dict(enumerate(classes))})
        (partial / "README.md").write_text(REDACTOR.text(card), encoding="utf-8")
        add_files(partial)
