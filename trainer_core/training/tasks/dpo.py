"""Direct preference optimization (Rafailov et al. 2023): of two completions prefer the chosen one.

    {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}
    {"prompt": [{"role": "user", "content": "Hi"}],
     "chosen": [{"role": "assistant", "content": "Hello!"}],
     "rejected": [{"role": "assistant", "content": "Go away."}]}

A completion's reward is beta times the log of how much likelier the model finds it than the base
model does. Shapes: B pairs of a batch; of the two completions the chosen one comes first.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from trainer_core.events import Phase, Warned
from trainer_core.rows.checking import rows_of
from trainer_core.spec.tasks.common import TaskSpec
from trainer_core.spec.tasks.dpo import DPO
from trainer_core.training.completions import (
    SequencesCollator,
    count_rows,
    encode_completions,
    num_learnt,
    score,
    without_dropout,
)
from trainer_core.training.dpo_losses import LOSSES, Ratios
from trainer_core.training.models import LoadedModel, mend_generation
from trainer_core.training.pairs import (
    Encode,
    pair_metrics,
    pair_predictions,
    rewards_and_losses,
    tell_left_out,
    tokenize_pairs,
)
from trainer_core.training.recipe import Batch, Recipe, Setup
from trainer_core.training.reference import REFERENCE, with_reference
from trainer_core.training.tasks.causal_lm import (
    CHAT_USAGE,
    TEXT_USAGE,
    check_reads_forward,
    end_turns,
    load,
    prepare_tokenizer,
)


def template_in_use(setup: Setup, chat_template: str) -> str | None:
    """Return the choice of a chat template, or None if no row to train on is messages."""
    rows: Iterator[Any] = rows_of(setup.found, "train", setup.files)
    has_chats = any(not isinstance(row.parts[0], str) for row in rows)
    return chat_template if has_chats else None


def completion_encoder(setup: Setup) -> Encode:
    """Return what makes tokens of prompts and completions."""
    max_length = setup.spec.max_length
    assert max_length != "auto", "the spec is resolved before"
    return partial(encode_completions, tokenizer=setup.base.tokenizer, max_length=max_length)


def load_policy(setup: Setup, spec: TaskSpec, *, chat_template: str | None) -> LoadedModel:
    """Return the language model to train, without dropout, and make the tokenizer ready for it."""
    check_reads_forward(setup.base, spec)
    prepare_tokenizer(setup.base, chat_template=chat_template)
    loaded = load(setup.base, spec)
    end_turns(loaded.model, setup.base, chat_template=chat_template)
    if warning := mend_generation(loaded.model):
        setup.reporter.report(Warned("generation_settings_replaced", warning))
    without_dropout(loaded.model)
    return loaded


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


def output_itself(_model: Any, _batch: Batch, output: torch.Tensor) -> torch.Tensor:
    """Return what the loss found of each row on its way."""
    return output


def build(setup: Setup) -> Recipe:
    """Return the recipe of direct preference optimization."""
    spec = setup.spec
    assert isinstance(spec, DPO), f"a spec of another task: {spec.task}"
    template = template_in_use(setup, spec.chat_template)
    loaded = load_policy(setup, spec, chat_template=template)
    setup.enter(Phase.TOKENIZING)
    tokenized = tokenize_pairs(setup, encode=completion_encoder(setup))
    tell_left_out(setup, tokenized)
    pad_token_id = setup.base.tokenizer.pad_token_id
    assert isinstance(pad_token_id, int), "set by prepare_tokenizer"
    bare = SequencesCollator(pad_token_id)
    return Recipe(
        model=loaded.model,
        tokenizer=setup.base.tokenizer,
        rows={
            split: with_reference(setup, t.rows, model=loaded.model, collate=bare, score=score)
            for split, t in tokenized.items()
        },
        collate=SequencesCollator(pad_token_id, others=(REFERENCE,)),
        forward_loss=DPOLoss(spec),
        count_targets=count_rows,
        targets_per_row=1.0,
        predict=output_itself,
        measure=pair_metrics,
        adapter_task="CAUSAL_LM",
        new_modules=loaded.new_modules,
        num_truncated={split: t.counts["truncated"] for split, t in tokenized.items()},
        classes=(),
        pipeline="text-generation",
        usage=CHAT_USAGE if template else TEXT_USAGE,
        predictions=pair_predictions,
    )
