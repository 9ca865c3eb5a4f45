"""Reward modelling: score texts, so that of a pair the chosen one scores higher.

    {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}
    {"chosen": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}],
     "rejected": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Go away."}],
     "margin": 0.5}

The probability that a text is the better one is the sigmoid of how much higher it scores (Bradley
and Terry 1952). Shapes: B pairs of a batch; of the two texts of a pair the chosen one comes first.
"""

from functools import partial
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from trainer_core.events import Phase
from trainer_core.spec.tasks.reward_model import RewardModel
from trainer_core.training.models.heads import load_scorer
from trainer_core.training.recipes.completions import (
    SequencesCollator,
    encode_wholes,
    without_dropout,
)
from trainer_core.training.recipes.decoders import prepare_template
from trainer_core.training.recipes.pairs import (
    pair_metrics,
    pair_predictions,
    rewards_and_losses,
    tokenize_pairs,
)
from trainer_core.training.recipes.policies import output_itself, tell_what_is_lost, template_in_use
from trainer_core.training.recipes.recipe import Batch, Recipe, Setup, count_rows

_CLASSES = ("reward",)


def bradley_terry_loss(
    model: Any, batch: Batch, num_pairs: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean negative log-likelihood of the preferences, in nats, and each pair's own."""
    output = model(
        input_ids=batch["input_ids"].flatten(0, 1),
        attention_mask=batch["attention_mask"].flatten(0, 1),
    )
    rewards_B2 = output.logits.float().view(-1, 2)
    margins_B = rewards_B2[:, 0] - rewards_B2[:, 1]
    losses_B = -logsigmoid(margins_B - batch["margin"][:, 0])
    return losses_B.sum() / num_pairs, rewards_and_losses(rewards_B2, losses_B)


def build(setup: Setup) -> Recipe:
    """Return the recipe of reward modelling."""
    spec = setup.spec
    assert isinstance(spec, RewardModel), f"a spec of another task: {spec.task}"
    assert spec.max_length != "auto", "the spec is resolved before"
    tokenizer = setup.base.tokenizer
    template = template_in_use(setup, spec.chat_template)
    if template:
        prepare_template(tokenizer, template)
    loaded = load_scorer(
        setup.base, spec, problem="regression", classes=_CLASSES, reporter=setup.reporter
    )
    without_dropout(loaded.model)
    setup.enter(Phase.TOKENIZING)
    encode = partial(encode_wholes, tokenizer=tokenizer, max_length=spec.max_length)
    tokenized = tokenize_pairs(setup, encode=encode, numbers={"margin": lambda row: row.margin})
    tell_what_is_lost(setup, tokenized)
    assert isinstance(tokenizer.pad_token_id, int), "set with the model"
    return Recipe(
        model=loaded.model,
        tokenizer=tokenizer,
        rows={split: tokens.rows for split, tokens in tokenized.items()},
        collate=SequencesCollator(tokenizer.pad_token_id, others=("margin",)),
        forward_loss=bradley_terry_loss,
        count_targets=count_rows,
        targets_per_row=1.0,
        predict=output_itself,
        measure=pair_metrics,
        adapter_task="SEQ_CLS",
        new_modules=loaded.new_modules,
        num_truncated={split: t.counts["truncated"] for split, t in tokenized.items()},
        classes=_CLASSES,
        pipeline="text-classification",
        usage=_CHAT_USAGE if template else _TEXT_USAGE,
        predictions=pair_predictions,
    )


_TEXT_USAGE = """\
from transformers import pipeline

reward = pipeline("text-classification", model="{folder}", function_to_apply="none")
print(reward("A question and an answer"))
"""
_CHAT_USAGE = """\
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
reward = AutoModelForSequenceClassification.from_pretrained("{folder}")
turns = [{"role": "user", "content": "A question"}, {"role": "assistant", "content": "An answer"}]
inputs = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)
print(reward(**inputs).logits[0, 0].item())
"""
