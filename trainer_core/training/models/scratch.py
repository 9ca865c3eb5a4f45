"""Beginning with random weights: the architecture and the tokenizer of a base model, no more."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from transformers import AutoModel, PreTrainedConfig

from trainer_core.errors import FieldProblem, InvalidSpec
from trainer_core.spec.parts import ScratchSpec
from trainer_core.training.models.base_model import BaseModel, num_positions_of
from trainer_core.training.process.failures import is_capacity
from trainer_core.training.process.safety import check_config

MAX_WEIGHTS = 10_000_000_000

# Other names of the same size, where a configuration's own map does not know them.
_SYNONYMS = {
    "intermediate_size": ("d_ff", "n_inner", "hidden_dim", "ffn_dim", "encoder_ffn_dim"),
    "max_position_embeddings": ("n_positions", "max_seq_len"),
    "num_key_value_heads": ("n_head_kv", "num_kv_heads"),
}
# What configurations compute from other sizes, and what belongs to the weights that are left.
_DERIVED = {"head_dim", "layer_types", "num_labels", "id2label", "label2id", "architectures"}


def begin_anew(base: BaseModel, scratch: ScratchSpec) -> BaseModel:
    """Return a base model of the same kind and of the sizes that are asked for, not yet in memory.

    Raises:
        InvalidSpec: its architecture has no such size, or sizes that do not go together.
    """
    config = base.config
    if config.get_text_config() is not config:
        raise _refused(f"a model of type '{config.model_type}' has parts of several sizes")
    sizes = {name: size for name, size in scratch if size is not None}
    problems = [
        FieldProblem(f"/scratch/{name}", f"a model of type '{config.model_type}' has no '{name}'")
        for name in sizes
        if _name_in(config, name) is None
    ]
    if problems:
        raise InvalidSpec(problems)
    named = {str(_name_in(config, name)): size for name, size in sizes.items()}
    try:
        changed = _changed(config, named)
        num_weights = _num_weights(changed)
    except Exception as error:
        if is_capacity(error):
            raise
        lines = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise _refused(f"these sizes do not go together: {lines[0][:300]}") from error
    if num_weights > MAX_WEIGHTS:
        raise _refused(f"{num_weights} weights are more than the {MAX_WEIGHTS} that may begin")
    num_positions, limit = num_positions_of(changed), base.tokenizer_limit
    if scratch.max_position_embeddings is not None and num_positions is not None:
        base.tokenizer.model_max_length = limit = num_positions
    return replace(
        base,
        config=changed,
        num_weights=num_weights,
        num_positions=num_positions,
        tokenizer_limit=limit,
        is_new=True,
    )


def _name_in(config: PreTrainedConfig, name: str) -> str | None:
    """Return what a configuration calls a size, or None if it has none."""
    known = config.to_dict()
    names = (name, config.attribute_map.get(name, name), *_SYNONYMS.get(name, ()))
    return next((one for one in names if one in known), None)


def _changed(config: PreTrainedConfig, sizes: Mapping[str, int]) -> PreTrainedConfig:
    values: dict[str, Any] = {
        name: value
        for name, value in config.to_dict().items()
        if name not in _DERIVED and not name.startswith("_")
    }
    is_one_each = values.get("num_key_value_heads") == values.get("num_attention_heads", "none")
    if is_one_each and "num_attention_heads" in sizes:
        values["num_key_value_heads"] = sizes["num_attention_heads"]
    changed = type(config).from_dict({**values, **sizes})
    check_config(changed.to_dict())
    heads = getattr(changed, "num_attention_heads", None)
    key_heads = getattr(changed, "num_key_value_heads", None) or heads
    if heads and heads % key_heads:  # not every class looks
        raise ValueError(f"{heads} attention heads can't share {key_heads} of keys and values")
    return changed


def _num_weights(config: PreTrainedConfig) -> int:
    """Return the number of weights of the body, without memory for them."""
    with torch.device("meta"):
        make: Any = AutoModel.from_config  # untyped
        model = make(config, trust_remote_code=False)
    return int(model.num_parameters())


def _refused(why: str) -> InvalidSpec:
    hint = "Choose other sizes, or leave 'scratch' out."
    return InvalidSpec([FieldProblem("/scratch", why, hint)])
