"""What each type of model keeps for the backward pass: `KEPT` of `trainer_core/spec/measured.py`.

    python -m benchmarks.activations

A small model of each type runs forward in fp32 on the CPU, in training mode, while the storages
that autograd keeps are added up. They are linear in the sizes of a layer, so that models of three
shapes and texts of two lengths give the coefficients. What is printed belongs into the table.
"""

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import transformers

_ROWS, _LAYERS, _HEADS, _VOCABULARY = 2, 4, 4, 100
_IDS = {name: number for number, name in enumerate(("pad", "bos", "eos", "cls", "sep"))}

# Model type -> (configuration, body, names of: hidden size, layers, heads, inner size, dropout).
_USUAL = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_KINDS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "bert": ("Bert", _USUAL, "attention_probs_dropout_prob"),
    "roberta": ("Roberta", _USUAL, "attention_probs_dropout_prob"),
    "electra": ("Electra", _USUAL, "attention_probs_dropout_prob"),
    "mpnet": ("MPNet", _USUAL, "attention_probs_dropout_prob"),
    "distilbert": ("DistilBert", ("dim", "n_layers", "n_heads", "hidden_dim"), "attention_dropout"),
    "modernbert": ("ModernBert", _USUAL, "attention_dropout"),
    "llama": ("Llama", _USUAL, "attention_dropout"),
    "mistral": ("Mistral", _USUAL, "attention_dropout"),
    "qwen2": ("Qwen2", _USUAL, "attention_dropout"),
    "qwen3": ("Qwen3", _USUAL, "attention_dropout"),
    "gpt2": ("GPT2", ("n_embd", "n_layer", "n_head", "n_inner"), "attn_pdrop"),
    "bart": ("Bart", ("d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim"),
             "attention_dropout"),
    "t5": ("T5", ("d_model", "num_layers", "num_heads", "d_ff"), "dropout_rate"),
}  # fmt: skip


def main() -> None:
    """Print a line of the table for each type of model."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    for model_type in _KINDS:
        figures = ", ".join(f"{figure:.1f}" for figure in _coefficients(model_type))
        print(f'    "{model_type}": Kept({figures}),', flush=True)


def _coefficients(model_type: str) -> list[float]:
    """Return what a `Kept` holds, in its order."""

    def kept(hidden: int, inner: int, length: int, *, dropout: float = 0.0) -> float:
        model = _body(model_type, hidden=hidden, inner=inner, dropout=dropout)
        return _kept_bytes(model, length) / (_ROWS * length * _LAYERS)

    small, wide, inner = kept(64, 256, 64), kept(128, 256, 64), kept(64, 512, 64)
    per_inner = (inner - small) / 256
    per_hidden = (wide - small) / 64
    scores, dropped_scores = (
        (kept(64, 256, 192, dropout=share) - kept(64, 256, 64, dropout=share)) / 128 / _HEADS
        for share in (0.0, 0.1)
    )
    return [per_hidden, per_inner, scores, dropped_scores]


def _body(model_type: str, *, hidden: int, inner: int, dropout: float) -> Any:
    prefix, (hidden_name, layers_name, heads_name, inner_name), dropout_name = _KINDS[model_type]
    make_config: Callable[..., Any] = getattr(transformers, f"{prefix}Config")
    sizes = {hidden_name: hidden, layers_name: _LAYERS, heads_name: _HEADS, inner_name: inner}
    match model_type:
        case "bart":
            sizes |= {name.replace("encoder", "decoder"): size for name, size in sizes.items()}
        case "t5":
            sizes |= {"num_decoder_layers": _LAYERS, "d_kv": hidden // _HEADS}
        case "qwen3":
            sizes["head_dim"] = hidden // _HEADS
    if model_type in ("llama", "mistral", "qwen2", "qwen3"):
        sizes["num_key_value_heads"] = _HEADS
    ids = {f"{name}_token_id": number for name, number in _IDS.items()}
    config = make_config(vocab_size=_VOCABULARY, **sizes, **ids, **{dropout_name: dropout})
    return getattr(transformers, f"{prefix}Model")(config).train()


def _kept_bytes(model: Any, length: int) -> int:
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, tuple[int, Any]] = {}  # with the tensor: a freed storage's place is used again

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    ids = torch.ones(_ROWS, length, dtype=torch.long)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(**inputs)
    return sum(num_bytes for num_bytes, _ in kept.values())


if __name__ == "__main__":
    main()
