"""The losses of pairs against the papers' equations, and against what TRL's trainer computes."""

import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trl import DPOTrainer

from trainer_core.training.losses.dpo_losses import LOSSES, Ratios

pytestmark = pytest.mark.slow

NOISE = {"robust": 0.2, "exo_pair": 0.01}

# Summed log-probabilities of chosen and rejected completions, of the model and the reference.
POLICY = [(-12.5, -20.25), (-31.0, -9.5), (-4.0, -4.0), (-60.0, -2.0)]
REFERENCE = [(-14.0, -19.5), (-30.5, -12.0), (-4.0, -4.0), (-20.0, -50.0)]
NUM_TOKENS = [(7, 9), (12, 3), (2, 2), (20, 1)]


def _losses(name: str, *, beta: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    ratios = torch.tensor(POLICY, dtype=dtype) - torch.tensor(REFERENCE, dtype=dtype)
    given = Ratios(ratios[:, 0], ratios[:, 1], torch.tensor(NUM_TOKENS))
    return LOSSES[name](given, beta, NOISE.get(name, 0.0))


def _equation(name: str, pair: int, *, beta: float) -> float:
    """Return a pair's loss as its paper writes it, in Python's own floats."""
    (chosen, rejected), (chosen_ref, rejected_ref) = POLICY[pair], REFERENCE[pair]
    gain, loss = chosen - chosen_ref, rejected - rejected_ref
    match name:
        case "sigmoid":
            return -math.log(1 / (1 + math.exp(-(beta * gain - beta * loss))))
        case "hinge":
            return max(0.0, 1 - beta * (gain - loss))
        case "ipo":
            num_chosen, num_rejected = NUM_TOKENS[pair]
            return (gain / num_chosen - loss / num_rejected - 1 / (2 * beta)) ** 2
        case "robust":
            noise = NOISE[name]
            right = -math.log(1 / (1 + math.exp(-beta * (gain - loss))))
            wrong = -math.log(1 / (1 + math.exp(beta * (gain - loss))))
            return ((1 - noise) * right - noise * wrong) / (1 - 2 * noise)
    raise AssertionError(name)


@pytest.mark.parametrize("beta", [0.1, 0.5])
@pytest.mark.parametrize("name", ["sigmoid", "hinge", "ipo", "robust"])
def test_losses_are_those_of_the_papers(name: str, beta: float) -> None:
    expected = [_equation(name, pair, beta=beta) for pair in range(len(POLICY))]
    assert _losses(name, beta=beta).tolist() == pytest.approx(expected, rel=1e-12)


def _trl(name: str, *, pair: int, beta: float) -> float:
    """Return the loss that TRL's trainer computes for one pair, given the log-probabilities.

    Its loss is one method with the forward pass and its metrics, so a trainer without a model is
    put together of what that method reads.
    """
    trainer: Any = object.__new__(DPOTrainer)
    one_process = SimpleNamespace(
        device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x
    )
    vars(trainer).update(
        model=SimpleNamespace(training=False),
        accelerator=one_process,
        args=SimpleNamespace(discopop_tau=0.05),
        beta=beta,
        loss_types=[name],
        loss_weights=[1.0],
        label_smoothing=NOISE.get(name, 0.0),
        f_divergence_type="reverse_kl",
        ld_alpha=None,
        use_weighting=False,
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        _metrics={"eval": defaultdict(list)},
        _total_train_tokens=0,
    )
    # The first token is the prompt's; the whole log-probability lies on the second.
    num_tokens = NUM_TOKENS[pair]
    places = torch.arange(1 + max(num_tokens))
    mask = torch.stack([(places > 0) & (places <= number) for number in num_tokens]).long()
    log_probs = torch.zeros(2, max(num_tokens))
    log_probs[:, 0] = torch.tensor(POLICY[pair])
    nothing = torch.zeros_like(log_probs)
    output = SimpleNamespace(
        log_probs=log_probs, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool()
    )
    inputs = {
        "input_ids": mask,
        "attention_mask": mask,
        "completion_mask": mask,
        "ref_chosen_logps": torch.tensor(REFERENCE[pair][:1]),
        "ref_rejected_logps": torch.tensor(REFERENCE[pair][1:]),
    }
    loss = trainer._compute_loss(lambda **_: output, inputs, return_outputs=False)
    return float(loss)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_those_of_trl(name: str) -> None:
    expected = [_trl(name, pair=pair, beta=0.2) for pair in range(len(POLICY))]
    found = _losses(name, beta=0.2, dtype=torch.float32)
    assert found.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)
