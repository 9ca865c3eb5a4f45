"""The losses of a preference pair by TRL's names, each as its paper has it.

They are functions of how much likelier the model finds each completion than the reference does.
TRL has no such functions: a test holds each loss equal to what TRL's trainer computes (ADR 15).
Shapes: B pairs.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid

_DISCOPOP_TAU = 0.05  # the paper's


@dataclass(frozen=True, slots=True)
class Ratios:
    """Log-probabilities of completions under the model less those under the reference, in nats."""

    chosen: torch.Tensor  # (B,)
    rejected: torch.Tensor  # (B,)
    num_tokens: torch.Tensor  # of both completions, (B, 2)

    @property
    def margin(self) -> torch.Tensor:
        """By how much more the chosen one gained, (B,)."""
        return self.chosen - self.rejected

    def of_tokens(self) -> "Ratios":
        """Return the means over the tokens of each completion."""
        by_token_B2 = torch.stack([self.chosen, self.rejected], dim=1) / self.num_tokens
        return Ratios(by_token_B2[:, 0], by_token_B2[:, 1], self.num_tokens)


def _exo_pair(ratios: Ratios, beta: float, noise: float) -> torch.Tensor:
    logits_B = beta * ratios.margin
    log_won_B, log_lost_B = logsigmoid(logits_B), logsigmoid(-logits_B)
    won_B = log_won_B.exp() * (log_won_B - math.log1p(-noise))
    return won_B + log_lost_B.exp() * (log_lost_B - math.log(noise))


def _nca_pair(ratios: Ratios, beta: float, _: float) -> torch.Tensor:
    chosen_B, rejected_B = beta * ratios.chosen, beta * ratios.rejected
    return -logsigmoid(chosen_B) - (logsigmoid(-chosen_B) + logsigmoid(-rejected_B)) / 2


def _robust(ratios: Ratios, beta: float, noise: float) -> torch.Tensor:
    logits_B = beta * ratios.margin
    right_B, wrong_B = -logsigmoid(logits_B), -logsigmoid(-logits_B)
    return ((1 - noise) * right_B - noise * wrong_B) / (1 - 2 * noise)


def _bco_pair(ratios: Ratios, beta: float, _: float) -> torch.Tensor:
    return -logsigmoid(beta * ratios.chosen) - logsigmoid(-beta * ratios.rejected)


def _sppo_hard(ratios: Ratios, beta: float, _: float) -> torch.Tensor:
    half = 0.5 / beta
    return (ratios.chosen - half).square() + (ratios.rejected + half).square()


def _apo_zero(ratios: Ratios, beta: float, _: float) -> torch.Tensor:
    return (-beta * ratios.chosen).sigmoid() + (beta * ratios.rejected).sigmoid()


def _apo_down(ratios: Ratios, beta: float, _: float) -> torch.Tensor:
    return (beta * ratios.chosen).sigmoid() + (-beta * ratios.margin).sigmoid()


def _discopop(ratios: Ratios, beta: float, _: float) -> torch.Tensor:
    logits_B = beta * ratios.margin
    share_B = (logits_B / _DISCOPOP_TAU).sigmoid()
    return (1 - share_B) * -logsigmoid(logits_B) + share_B * (-logits_B).exp()


# (ratios, beta, label_smoothing) to the loss of each pair, (B,)
PairLoss = Callable[[Ratios, float, float], torch.Tensor]

LOSSES: Mapping[str, PairLoss] = {
    # Rafailov et al. 2023, arXiv 2305.18290, eq. 7
    "sigmoid": lambda ratios, beta, _: -logsigmoid(beta * ratios.margin),
    # the same, with the means over a completion's tokens
    "sigmoid_norm": lambda ratios, beta, _: -logsigmoid(beta * ratios.of_tokens().margin),
    # Zhao et al. 2023, arXiv 2305.10425, held to a reference
    "hinge": lambda ratios, beta, _: (1 - beta * ratios.margin).relu(),
    # Azar et al. 2023, arXiv 2310.12036, eq. 17, with the means over a completion's tokens
    "ipo": lambda ratios, beta, _: (ratios.of_tokens().margin - 0.5 / beta).square(),
    "exo_pair": _exo_pair,  # Ji et al. 2024, arXiv 2402.00856, eq. 16
    "nca_pair": _nca_pair,  # Chen et al. 2024, arXiv 2402.05369
    "robust": _robust,  # Chowdhury et al. 2024, arXiv 2403.00409
    "bco_pair": _bco_pair,  # Jung et al. 2024, arXiv 2404.04656, without its reward shift
    "sppo_hard": _sppo_hard,  # Wu et al. 2024, arXiv 2405.00675, for certain preferences
    "apo_zero": _apo_zero,  # D'Oosterlinck et al. 2024, arXiv 2408.06266, eq. 7
    "apo_down": _apo_down,  # the same, eq. 8
    "discopop": _discopop,  # Lu et al. 2024, arXiv 2406.08414, eq. 5
}
