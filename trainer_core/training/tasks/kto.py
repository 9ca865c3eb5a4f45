"""Kahneman-Tversky optimization (Ethayarajh et al. 2024): completions marked good or bad.

    {"prompt": "The sky is", "completion": " blue.", "label": true}
    {"prompt": "The sky is", "completion": " green.", "label": false}

A reward counts by how far it is from a point that all rows of an optimizer step share: beta times
the divergence from the reference, measured on prompts with the completions of others. So a row is
two sequences, of which the second is the prompt with another row's completion. Shapes: B rows.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from trainer_core.events import Phase, Reporter, Warned
from trainer_core.spec.tasks.kto import KTO
from trainer_core.training.data.tokens import TokenRow
from trainer_core.training.loop.steps import MicroBatch
from trainer_core.training.loop.trainer import RunTrainer
from trainer_core.training.recipes.completions import (
    COLUMNS,
    Completion,
    Encode,
    num_learnt,
    row_of,
    score,
    with_other_completion,
)
from trainer_core.training.recipes.policies import load_policy, tell_what_is_lost
from trainer_core.training.recipes.recipe import Batch, Measured, Recipe, Setup
from trainer_core.training.recipes.reference import REFERENCE
from trainer_core.training.recipes.tokenizing import Tokenized, tokenize_splits

_KL = "kl"  # of a batch: the divergence over its whole optimizer step, in nats


def tokenize_rows(setup: Setup, *, encode: Encode) -> dict[str, Tokenized]:
    """Return the rows of every split, each beside its prompt with the completion of another row.

    The other row is half of those tokenized together away: neighbours often share a prompt. A row
    that is alone there, the last of a file, has no other, and no part in the divergence.
    """
    max_length = setup.spec.max_length
    assert max_length != "auto", "the spec is resolved before"

    def encode_rows(rows: Sequence[Any], counts: Counter[str]) -> Iterator[TokenRow]:
        found = encode([row.parts for row in rows])
        numbers = range(counts["rows"], counts["rows"] + len(found))
        counts["rows"] += len(found)
        counts["truncated"] += sum(one.is_truncated for one in found)
        counts["chats_with_lost_turns"] += sum(one.has_lost_turns for one in found)
        kept = [
            (number, row, own)
            for number, row, own in zip(numbers, rows, found, strict=True)
            if own.num_learnt
        ]
        others = mixed_up([own for *_, own in kept], max_length=max_length)
        for (number, row, own), mixed in zip(kept, others, strict=True):
            yield row_of([own, mixed], number=number) | {"label": np.array([row.label])}

    return tokenize_splits(setup, columns={**COLUMNS, "label": np.bool_}, encode=encode_rows)


def mixed_up(found: Sequence[Completion], *, max_length: int) -> Iterator[Completion]:
    """Yield each prompt with the completion of another row; of one alone nothing is learnt."""
    if len(found) == 1:
        yield replace(found[0], is_learnt=np.zeros_like(found[0].is_learnt))
        return
    for place, own in enumerate(found):
        other = found[(place + len(found) // 2) % len(found)]
        yield with_other_completion(own, other, max_length=max_length)


def divergence(mixed_ratios_B: torch.Tensor) -> torch.Tensor:
    """Return the estimate of the divergence from the reference, in nats, never below 0.

    Args:
        mixed_ratios_B: how much likelier completions became after the prompts of others, as logs;
            NaN for a row without such a completion. With no others the estimate is 0.
    """
    return mixed_ratios_B.nanmean().nan_to_num(nan=0.0).clamp(min=0)


def kto_losses(
    ratios_B: torch.Tensor, is_good_B: torch.Tensor, kl: torch.Tensor, *, spec: KTO
) -> torch.Tensor:
    """Return the weighted loss of each row (eq. 8 of the paper, less its constant), (B,)."""
    distance_B = spec.beta * (ratios_B - kl)
    good_B = spec.desirable_weight * (-distance_B).sigmoid()
    bad_B = spec.undesirable_weight * distance_B.sigmoid()
    return torch.where(is_good_B, good_B, bad_B)


@dataclass(frozen=True, slots=True)
class KTOLoss:
    """The forward pass of the rows' own completions, and the mean loss of the rows.

    While training the divergence over the step comes with the batch. While measuring the second
    sequences are scored too, and the batch's own divergence stands in; the figures take all rows.
    """

    spec: KTO

    def __call__(
        self, model: Any, batch: Batch, num_rows: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        is_step = _KL in batch
        ratios_BS = log_ratios(model, batch, sequences=slice(0, 1 if is_step else 2))
        kl = batch[_KL] if is_step else divergence(ratios_BS[:, 1])
        losses_B = kto_losses(ratios_BS[:, 0], batch["label"][:, 0], kl, spec=self.spec)
        return losses_B.sum() / num_rows, ratios_BS


def log_ratios(model: Any, batch: Batch, *, sequences: slice) -> torch.Tensor:
    """Return how much likelier the model finds some of the two sequences, as logs, (B, S).

    NaN where nothing of a sequence is learnt.
    """
    names = ("input_ids", "attention_mask", "is_learnt")
    part = {name: batch[name][:, sequences] for name in names}
    ratios_BS = score(model, part) - batch[REFERENCE][:, sequences]
    return ratios_BS.masked_fill(num_learnt(part).eq(0), torch.nan)


class KTORun(RunTrainer):
    """Measures the divergence over the whole optimizer step before its first micro-batch.

    Each loss depends on it, so that it must not change with where a step is cut.
    """

    def training_step(
        self, model: Any, inputs: Any, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        step: list[MicroBatch] = inputs
        kl = self._divergence(model, step)
        informed = [part._replace(inputs={**part.inputs, _KL: kl}) for part in step]
        return super().training_step(model, informed, num_items_in_batch)

    def _divergence(self, model: Any, step: Sequence[MicroBatch]) -> torch.Tensor:
        total, count = torch.zeros(2, device=self.args.device)
        for micro_batch in step:
            batch = self._prepare_inputs(dict(micro_batch.inputs))
            with torch.no_grad(), self.compute_loss_context_manager():
                ratios_B1 = log_ratios(model, batch, sequences=slice(1, 2))
            if not micro_batch.is_ballast:  # which goes through the model as everywhere
                total = total + ratios_B1.nansum()
                count = count + ratios_B1.isnan().logical_not().sum()
        if self.args.world_size > 1:
            total, count = self.accelerator.reduce(torch.stack([total, count]))
        return divergence(total / count)


def kto_metrics(measured: Measured, *, spec: KTO, reporter: Reporter) -> dict[str, float]:
    """Return how well rewards tell good completions from bad ones, and the loss over all rows."""
    ratios_B2 = np.stack(measured.predictions).astype(np.float64)
    is_good_B = measured.rows.values("label")
    rewards_B = spec.beta * ratios_B2[:, 0]
    kl = divergence(torch.from_numpy(ratios_B2[:, 1].copy()))
    losses_B = kto_losses(
        torch.from_numpy(ratios_B2[:, 0]), torch.from_numpy(is_good_B.copy()), kl, spec=spec
    )
    metrics = {"kl": float(kl), "loss": float(losses_B.mean())}
    if is_good_B.all() or not is_good_B.any():
        message = f"the {measured.split} rows all have one label, so rewards can't be compared."
        hint = "Give rows of both labels to evaluate on."
        reporter.report(Warned("metric_undefined", message, hint))
        return metrics
    good, bad = float(rewards_B[is_good_B].mean()), float(rewards_B[~is_good_B].mean())
    return {
        "reward_auc": float(roc_auc_score(is_good_B, rewards_B)),
        "reward_margin": good - bad,
        "desirable_reward": good,
        "undesirable_reward": bad,
        **metrics,
    }


def rewards(measured: Measured, *, spec: KTO) -> Iterator[Mapping[str, float]]:
    """Yield the reward of each row."""
    for row, prediction in measured.numbered():
        yield {"row": row, "reward": spec.beta * float(prediction[0])}


def build(setup: Setup) -> Recipe:
    """Return the recipe of Kahneman-Tversky optimization."""
    spec = setup.spec
    assert isinstance(spec, KTO), f"a spec of another task: {spec.task}"
    policy = load_policy(setup, chat_template=spec.chat_template)
    setup.enter(Phase.TOKENIZING)
    tokenized = tokenize_rows(setup, encode=policy.encode)
    tell_what_is_lost(setup, tokenized)
    return policy.recipe(
        tokenized,
        rows=policy.with_reference(tokenized),
        columns=(REFERENCE, "label"),
        forward_loss=KTOLoss(spec),
        measure=partial(kto_metrics, spec=spec, reporter=setup.reporter),
        predictions=partial(rewards, spec=spec),
        trainer_class=KTORun,
    )
