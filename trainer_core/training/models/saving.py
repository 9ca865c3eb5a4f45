"""The finished model: safetensors, tokenizer, label names and card, whole or absent."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer_core.redaction import REDACTOR
from trainer_core.run_directory import read_json, write_json
from trainer_core.training.process.directories import whole_or_absent

_ADAPTER_CONFIG = "adapter_config.json"
_CONFIG = "config.json"

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
        _name_base(partial, base_model=base_model, classes=classes)
        (partial / "README.md").write_text(REDACTOR.text(card), encoding="utf-8")
        add_files(partial)


def say_as_finished(
    folder: Path, *, base_model: str, classes: Sequence[str], use_cache: bool | None
) -> None:
    """Have what the Trainer has saved in a checkpoint say what a finished model says.

    Args:
        folder: of the checkpoint, with a whole model or an adapter.
        base_model: name of the model that an adapter belongs to; never a path of this machine.
        classes: label names, if the task has any.
        use_cache: the base model's setting, which training turns off; None if it had none.
    """
    if (folder / _ADAPTER_CONFIG).exists():
        _name_base(folder, base_model=base_model, classes=classes)
        (folder / "README.md").unlink(missing_ok=True)  # of peft, with the path in it
        return
    config = read_json(folder / _CONFIG)
    config.pop("use_cache", None)
    write_json(folder / _CONFIG, config if use_cache is None else config | {"use_cache": use_cache})


def _name_base(folder: Path, *, base_model: str, classes: Sequence[str]) -> None:
    config = read_json(folder / _ADAPTER_CONFIG)
    write_json(folder / _ADAPTER_CONFIG, config | {"base_model_name_or_path": base_model})
    if classes:  # an adapter has no config.json to hold them
        write_json(folder / "labels.json", {"id2label": dict(enumerate(classes))})
