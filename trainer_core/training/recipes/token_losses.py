"""The likelihood of tokens: the loss of a batch, the sums of its rows, the figures of a split.

Shapes: B rows of a batch, T tokens, V vocabulary. A label of -100 is no target.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from trainer_core.training.losses.cross_entropy import cross_entropy
from trainer_core.training.recipes.recipe import Measured


@dataclass(frozen=True, slots=True)
class TokenLoss:
    """The negative log-likelihood of the targets, in nats, over a number of tokens."""

    smoothing: float = 0.0  # while training only

    def __call__(
        self, output: Any, labels_BT: torch.Tensor, num_tokens: torch.Tensor
    ) -> torch.Tensor:
        smoothing = self.smoothing if torch.is_grad_enabled() else 0.0
        logits_PV, labels_P = output.logits.flatten(0, 1), labels_BT.flatten()
        return cross_entropy(logits_PV, labels_P, smoothing=smoothing).total / num_tokens


def sums_of_logits(logits_BTV: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
    """Return of each row its loss, number of targets and number guessed right, (B, 3)."""
    losses = cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), smoothing=0.0)
    rows_N = targets_BT.ne(-100).nonzero()[:, 0]
    return losses.sums_of_rows(rows_N, num_rows=len(targets_BT))


def token_metrics(measured: Measured) -> dict[str, float]:
    """Return loss, perplexity and token accuracy over all tokens, not over batches."""
    sums_B3 = np.stack([row[:3] for row in measured.predictions])
    loss_sum, num_tokens, num_right = sums_B3.sum(axis=0, dtype=np.float64)
    loss = float(loss_sum / num_tokens)
    perplexity = math.exp(loss) if loss < 700 else math.inf  # exp(710) overflows
    return {"loss": loss, "perplexity": perplexity, "token_accuracy": float(num_right / num_tokens)}


def token_predictions(measured: Measured) -> Iterator[Mapping[str, float]]:
    """Yield how well the targets of each row are guessed; the loss is their mean, in nats."""
    for row, (loss, num_tokens, num_right) in measured.numbered():
        yield {
            "row": row,
            "loss": float(loss / num_tokens),
            "num_tokens": int(num_tokens),
            "token_accuracy": float(num_right / num_tokens),
        }
