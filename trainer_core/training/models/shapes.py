"""The sizes of a model's layers, as estimates of memory take them."""

from collections.abc import Iterable

from transformers import PreTrainedConfig

from trainer_core.spec.estimating import ModelShape

_LAYERS = ("num_hidden_layers", "encoder_layers", "num_layers")
_HEADS = ("num_attention_heads", "encoder_attention_heads", "num_heads")
_INNER = ("intermediate_size", "d_ff", "n_inner", "hidden_dim", "encoder_ffn_dim", "ffn_dim")
_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop", "dropout_rate")
_USUAL_WIDENING = 4  # of the feed-forward part over the hidden size, where nothing is said


def shape_of(config: PreTrainedConfig) -> ModelShape | None:
    """Return the sizes that a configuration names, under any of their names; None without them."""
    text = config.get_text_config()
    hidden = _first(text, ("hidden_size", "d_model", "dim"))
    layers, heads = _first(text, _LAYERS), _first(text, _HEADS)
    if not (hidden and layers and heads):
        return None
    return ModelShape(
        model_type=str(config.model_type),
        num_layers=int(layers),
        hidden_size=int(hidden),
        inner_size=int(_first(text, _INNER) or _USUAL_WIDENING * hidden),
        num_heads=int(heads),
        has_dropped_scores=bool(_first(text, _DROPOUT)),
        has_decoder_beside=bool(config.is_encoder_decoder),
    )


def _first(config: PreTrainedConfig, names: Iterable[str]) -> float | None:
    """Return the first of these settings that is a number."""
    found = (getattr(config, name, None) for name in names)
    return next((value for value in found if isinstance(value, int | float)), None)
