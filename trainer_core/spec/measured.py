"""What was measured of models and devices, for estimates of memory and time.

`KEPT` is printed by `python -m benchmarks.activations` (torch 2.13, transformers 5.23, fp32, CPU).
The figures of `CPU` were fitted to the runs of `tests/training/test_estimates.py`, which measures
them again and holds estimates of memory to 20 %, and of time to a factor of ten, since machines
differ. Nothing has been measured on a GPU yet.
"""

from dataclasses import dataclass
from typing import NamedTuple


class Kept(NamedTuple):
    """Bytes that a layer keeps of each token for the backward pass, in fp32."""

    per_hidden: float  # of each number of the hidden size
    per_inner: float  # of each number of the feed-forward part
    per_score: float  # of each head and each token looked at, without dropout of attention
    per_dropped_score: float  # the same with it, which fused attention of the CPU can't do


KEPT = {
    "bert": Kept(43.0, 8.0, 0.0, 12.0),
    "roberta": Kept(43.0, 8.0, 0.0, 12.0),
    "electra": Kept(38.0, 8.0, 0.0, 12.0),
    "mpnet": Kept(43.0, 8.0, 4.2, 12.2),
    "distilbert": Kept(38.0, 8.0, 0.0, 12.0),
    "modernbert": Kept(41.5, 16.0, 0.5, 12.0),
    "llama": Kept(42.2, 16.0, 0.0, 12.0),
    "mistral": Kept(42.2, 16.0, 0.0, 12.0),
    "qwen2": Kept(42.2, 16.0, 0.0, 12.0),
    "qwen3": Kept(58.2, 16.0, 0.0, 12.0),
    "gpt2": Kept(50.0, 20.0, 0.0, 12.0),
    "bart": Kept(113.0, 16.0, 0.0, 36.0),
    "t5": Kept(113.0, 8.0, 9.1, 36.6),
}
"""By transformers' name of the model type. An encoder with a decoder keeps this of a layer of each,
for a token read and one written."""

USUAL = Kept(45.0, 16.0, 0.0, 12.0)
"""Of a type that is not in the table."""


@dataclass(frozen=True, slots=True)
class DeviceFigures:
    """What a kind of device needs and does."""

    framework_bytes: int  # held before any weight is there: libraries, or the driver's context
    adapter_bytes: int  # held besides by the library of adapters
    flops_per_second: float | None  # of training; on the CPU of one thread; None: not measured


DEVICES = {
    "cpu": DeviceFigures(framework_bytes=560 << 20, adapter_bytes=120 << 20, flops_per_second=2e10),
    "cuda": DeviceFigures(framework_bytes=700 << 20, adapter_bytes=0, flops_per_second=None),
    "mps": DeviceFigures(framework_bytes=300 << 20, adapter_bytes=0, flops_per_second=None),
}
