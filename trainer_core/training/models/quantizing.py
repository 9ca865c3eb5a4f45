"""Frozen weights in 8 or 4 bits under an adapter (QLoRA, Dettmers et al. 2023), by bitsandbytes."""

import importlib.util
import os
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from transformers import BitsAndBytesConfig, PreTrainedConfig

from trainer_core.errors import FieldProblem, InvalidSpec
from trainer_core.spec import JobSpec
from trainer_core.training.process.devices import Device

_PACKAGE = "bitsandbytes"
_COMPUTED_IN = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True, slots=True)
class Quantizing:
    """How weights are quantized as they are loaded."""

    bits: Literal["8bit", "4bit"]
    precision: str  # in which products are computed
    device: str  # its kind


def choose_quantizing(spec: JobSpec, device: Device) -> Quantizing | None:
    """Return how the weights of a resolved spec are quantized, or None for not at all.

    Raises:
        InvalidSpec: the device can't compute with them, or a package is missing.
    """
    if spec.adapter is None or spec.adapter.quantization == "none":
        return None
    bits = spec.adapter.quantization
    problem = ""
    if device.kind == "mps":
        problem = f"weights of {bits} can't be computed on {device.name}"
    elif importlib.util.find_spec(_PACKAGE) is None:
        problem = f"weights of {bits} need the package '{_PACKAGE}', which is not installed"
    if problem:
        raise InvalidSpec([FieldProblem("/adapter/quantization", problem, "Set it to 'none'.")])
    return Quantizing(bits, spec.training.precision, device.kind)


def quantized_loading(
    config: PreTrainedConfig, auto_class: Any, quantizing: Quantizing | None
) -> dict[str, Any]:
    """Return what `from_pretrained` takes to quantize the layers of the body as it loads them."""
    if quantizing is None:
        return {}
    # A head may be new, and is trained whole: what the body does not have stays as it is.
    settings: dict[str, Any] = {"llm_int8_skip_modules": _outside_body(config, auto_class)}
    if quantizing.bits == "4bit":
        settings |= {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": _COMPUTED_IN[quantizing.precision],
        }
    else:
        settings["load_in_8bit"] = True
    number = int(os.environ.get("LOCAL_RANK", "0"))
    return {
        "quantization_config": BitsAndBytesConfig(**settings),  # type: ignore[no-untyped-call]
        "device_map": {"": number if quantizing.device == "cuda" else quantizing.device},
    }


def keep_as_loaded(model: torch.nn.Module) -> None:
    """Keep evaluations from changing quantized weights, so that they change no training after them.

    Where a CPU has AVX512-BF16, bitsandbytes 0.50 packs the weights of a 4-bit layer anew at its
    first evaluation, with scales rounded to bf16, and fails on layers narrower than a block:
    https://github.com/bitsandbytes-foundation/bitsandbytes/blob/0.50.2/bitsandbytes/nn/modules.py
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            cast("Any", module).support_avx512bf16_for_cpu = False


def _outside_body(config: PreTrainedConfig, auto_class: Any) -> list[str]:
    with torch.device("meta"):
        model = auto_class.from_config(config, attn_implementation=None, trust_remote_code=False)
    names = [name for name, _ in model.named_children() if name != model.base_model_prefix]
    return [*names, "pooler"]
