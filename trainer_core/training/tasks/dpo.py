"""Direct preference optimization (Rafailov et al. 2023): of two completions prefer the chosen one.

    {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}
    {"prompt": [{"role": "user", "content": "Hi"}],
     "chosen": [{"role": "assistant", "content": "Hello!"}],
     "rejected": [{"role": "assistant", "content": "Go away."}]}

A completion's reward is beta times the log of how much likelier the model finds it than the base
model does. Shapes: B pairs of a batch; of the two completions the chosen one comes first.
"""

from dataclasses import dataclass
from typing import Any

import torch

from trainer_core.events import Phase
from trainer_core.spec.tasks.dpo import DPO
from trainer_core.training.losses.dpo_losses import LOSSES, Ratios
from trainer_core.training.recipes.completions import num_learnt, score
from trainer_core.training.recipes.pairs import (
    pair_metrics,
    pair_predictions,
    rewards_and_losses,
    tokenize_pairs,
)
from trainer_core.training.recipes.policies import load_policy, tell_what_is_lost
from trainer_core.training.recipes.recipe import Batch, Recipe, Setup
from trainer_core.training.recipes.reference import REFERENCE


@dataclass(frozen=True, slots=True)
class DPOLoss:
    """The forward pass of both completions of each pair, and the mean loss of the pairs."""

    spec: DPO

    def __call__(
        self, model: Any, batch: Batch, num_pairs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        spec = self.spec
        ratios_B2 = score(model, batch) - batch[REFERENCE]
        ratios = Ratios(ratios_B2[:, 0], ratios_B2[:, 1], num_learnt(batch))
        losses_B = LOSSES[spec.loss_type](ratios, spec.beta, spec.label_smoothing)
        return losses_B.sum() / num_pairs, rewards_and_losses(spec.beta * ratios_B2, losses_B)


def build(setup: Setup) -> Recipe:
    """Return the recipe of direct preference optimization."""
    spec = setup.spec
    assert isinstance(spec, DPO), f"a spec of another task: {spec.task}"
    policy = load_policy(setup, chat_template=spec.chat_template)
    setup.enter(Phase.TOKENIZING)
    tokenized = tokenize_pairs(setup, encode=policy.encode)
    tell_what_is_lost(setup, tokenized)
    return policy.recipe(
        tokenized,
        rows=policy.with_reference(tokenized),
        columns=(REFERENCE,),
        forward_loss=DPOLoss(spec),
        measure=pair_metrics,
        predictions=pair_predictions,
    )
