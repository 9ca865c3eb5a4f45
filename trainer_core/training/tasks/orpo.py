"""Odds ratio preference optimization (Hong et al. 2024): learn one completion, shun the other.

    {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}

The loss of a pair is the chosen completion's negative log-likelihood, as the mean over its tokens,
and beta times how far its odds are from being the better ones. There is no reference. Shapes: B
pairs of a batch; of the two completions the chosen one comes first.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from trainer_core.events import Phase
from trainer_core.spec.tasks.orpo import ORPO
from trainer_core.training.recipes.completions import num_learnt, score
from trainer_core.training.recipes.pairs import (
    pair_metrics,
    pair_predictions,
    rewards_and_losses,
    tokenize_pairs,
)
from trainer_core.training.recipes.policies import load_policy, tell_what_is_lost
from trainer_core.training.recipes.recipe import Batch, Measured, Recipe, Setup

_MOST_CERTAIN = -1e-6  # nats a token; a certainty has infinite odds


def odds_ratio_losses(means_B2: torch.Tensor) -> torch.Tensor:
    """Return how far the chosen completion's odds are from being the better ones (eq. 7), (B,).

    Args:
        means_B2: mean log-probabilities of the completions' tokens, in nats.
    """
    log_odds_B2 = means_B2 - _log_of_rest(means_B2.clamp(max=_MOST_CERTAIN))
    return -logsigmoid(log_odds_B2[:, 0] - log_odds_B2[:, 1])


def _log_of_rest(logs: torch.Tensor) -> torch.Tensor:
    """Return log(1 - exp(x)) for x < 0 without cancellation at either end."""
    is_likely = logs > -np.log(2)
    return torch.where(is_likely, (-logs.expm1()).log(), (-logs.exp()).log1p())


@dataclass(frozen=True, slots=True)
class ORPOLoss:
    """The forward pass of both completions of each pair, and the mean loss of the pairs."""

    beta: float

    def __call__(
        self, model: Any, batch: Batch, num_pairs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        means_B2 = score(model, batch) / num_learnt(batch)
        nll_B = -means_B2[:, 0]
        losses_B = nll_B + self.beta * odds_ratio_losses(means_B2)
        found_B3 = rewards_and_losses(self.beta * means_B2, losses_B)
        return losses_B.sum() / num_pairs, torch.cat([found_B3, nll_B[:, None]], dim=1)


def orpo_metrics(measured: Measured) -> dict[str, float]:
    """Return the figures of the pairs, and the negative log-likelihood of what was chosen."""
    nll_B = np.stack(measured.predictions)[:, 3]
    return {**pair_metrics(measured), "nll": float(nll_B.mean(dtype=np.float64))}


def build(setup: Setup) -> Recipe:
    """Return the recipe of odds ratio preference optimization."""
    spec = setup.spec
    assert isinstance(spec, ORPO), f"a spec of another task: {spec.task}"
    policy = load_policy(setup, chat_template=spec.chat_template)
    setup.enter(Phase.TOKENIZING)
    tokenized = tokenize_pairs(setup, encode=policy.encode)
    tell_what_is_lost(setup, tokenized)
    return policy.recipe(
        tokenized,
        rows={split: tokens.rows for split, tokens in tokenized.items()},
        columns=(),
        forward_loss=ORPOLoss(spec.beta),
        measure=orpo_metrics,
        predictions=pair_predictions,
    )
