"""Peak memory of a language model's loss with a large vocabulary: whole logits over ours.

    python -m benchmarks.large_vocab

A head of 128 k tokens and 2048 tokens to learn. The peer computes the logits of all tokens, then
`cross_entropy`, as transformers' own models do. Each measurement is a fresh process; its figure is
the peak of resident memory during forward and backward pass, less what was resident once torch was
imported and the inputs were made. The gradients of both are compared.
"""

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import Learned, measure_apart, pairs, result

NUM_TOKENS, HIDDEN, VOCABULARY = 2048, 512, 131_072
_STATUS = Path("/proc/self/status")


def run(num_runs: int) -> list[dict[str, Any]]:
    """Return the ratio of peak memories, peer over ours, and how far the gradients are apart."""
    runs = pairs(lambda side, _: measure_apart("large_vocab", side), num_runs=num_runs)
    error = {"ours": gradient_error(), "peer": 0.0}
    return [
        result(
            "large_vocab",
            [
                {side: {**one, "gradient_error": error[side]} for side, one in r.items()}
                for r in runs
            ],
            figure="peak_mib",
            unit="MiB of peak memory, forward and backward",
            is_more_better=False,
            quality=lambda measured: [measured["loss"], measured["gradient_error"]],
            learned=[Learned("loss", False)],
        )
    ]


def _measure(side: str) -> dict[str, float]:
    hidden, weight, targets = _inputs(NUM_TOKENS, HIDDEN, VOCABULARY)
    _loss_of(side, *_inputs(8, 4, 16)).backward()  # what is set up at first use is not the loss's
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM starts anew
    before = _memory_mib("VmRSS")
    begun = time.process_time()
    loss = _loss_of(side, hidden, weight, targets)
    loss.backward()
    seconds = time.process_time() - begun
    return {
        "peak_mib": _memory_mib("VmHWM") - before,
        "cpu_seconds": seconds,
        "loss": loss.item(),
    }


def gradient_error() -> float:
    """Return the largest relative distance of our gradients from autograd's, in fp64."""
    import torch

    gradients = {}
    for side in ("ours", "peer"):
        hidden, weight, targets = _inputs(64, 32, 1000, dtype=torch.float64)
        gradients[side] = torch.autograd.grad(
            _loss_of(side, hidden, weight, targets), (hidden, weight)
        )
    pairs = zip(gradients["ours"], gradients["peer"], strict=True)
    return max(float((ours - peer).norm() / peer.norm()) for ours, peer in pairs)


def _inputs(num_tokens: int, hidden: int, vocabulary: int, *, dtype: Any = None) -> tuple[Any, ...]:
    import torch

    torch.manual_seed(0)
    hidden_NH = torch.randn(num_tokens, hidden, dtype=dtype).requires_grad_()
    weight_VH = (torch.randn(vocabulary, hidden, dtype=dtype) * hidden**-0.5).requires_grad_()
    return hidden_NH, weight_VH, torch.randint(0, vocabulary, (num_tokens,))


def _loss_of(side: str, hidden_NH: Any, weight_VH: Any, targets_N: Any) -> Any:
    from torch.nn import functional

    from trainer_core.training.losses.cross_entropy import LogitMap, linear_cross_entropy

    if side == "peer":
        logits_NV = functional.linear(hidden_NH, weight_VH)
        return functional.cross_entropy(logits_NV, targets_N)
    chunk = None if len(weight_VH) > 1000 else 24  # several chunks also where it is tiny
    losses = linear_cross_entropy(
        hidden_NH,
        weight_VH,
        None,
        targets_N,
        mapping=LogitMap(),
        smoothing=0.0,
        chunk_size=chunk,
    )
    return losses.total / len(targets_N)


def _memory_mib(name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"))
    assert found, f"no {name} in {_STATUS}"
    return int(found[1]) / 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=["ours", "peer"])
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    print(json.dumps(_measure(given.side) if given.side else run(given.runs)))
