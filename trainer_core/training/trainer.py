"""`transformers.Trainer` with the loss, the predictions and the figures of a recipe."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import Trainer
from transformers.trainer_utils import EvalPrediction

from trainer_core.training.batching import LongestFirstSampler
from trainer_core.training.loop import RunLoop
from trainer_core.training.recipe import Measured, Recipe
from trainer_core.training.tokens import Array, TokenizedRows


class RecipeTrainer(Trainer):
    """Learns and measures as a recipe says."""

    # The recipe's loss is a mean over the whole optimizer step, whatever the model's own does.
    loss_is_scaled_for_ga = True

    _recipe: Recipe  # set by whoever makes it
    _num_targets: Any  # of the optimizer step in hand

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor]:
        # The stock one divides a step's loss by the step's own targets. Steps hold rows of like
        # length, so that a token of a short row would weigh many times one of a long row (ADR 13).
        batches, self._num_targets = super().get_batch_samples(epoch_iterator, num_batches, device)
        num_rows = min(self._rows_per_step, len(self._recipe.rows["train"]))
        return batches, torch.tensor(num_rows * self._recipe.targets_per_row, device=device)

    @property
    def _rows_per_step(self) -> int:
        arguments = self.args
        num_batches: int = arguments.gradient_accumulation_steps * arguments.world_size
        return arguments.per_device_train_batch_size * num_batches

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        # The stock one takes every label of -100 for padding, which a regression may well predict.
        counts = (self._recipe.count_targets(batch) for batch in batch_samples)
        count = sum(counts, start=torch.tensor(0)).to(device)
        return self.accelerator.gather(count).sum() if self.args.world_size > 1 else count

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        loss, output = self._recipe.forward_loss(model, inputs, num_items_in_batch)
        loss = loss * self.accelerator.num_processes  # gradients are averaged over processes
        return (loss, output) if return_outputs else loss

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        # What is told is the mean over the step's own targets: nats a token, also of short rows.
        share: torch.Tensor = num_items_in_batch / self._num_targets
        return loss * share

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        rows: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        self.compute_metrics = partial(self._figures, rows=rows, split=metric_key_prefix)
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def prediction_step(
        self,
        model: Any,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        # The stock one keeps every output and label of all rows, padded to the longest.
        batch = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            num_targets = self._recipe.count_targets(batch)
            loss, output = self._recipe.forward_loss(model, batch, num_targets)
            predictions = self._recipe.predict(model, batch, output).detach()
        # Metrics take labels from the rows; the loop measures nothing where it sees none.
        return loss.detach(), predictions, predictions.new_zeros(len(predictions))

    def _figures(
        self, output: EvalPrediction, *, rows: TokenizedRows, split: str
    ) -> dict[str, float]:
        by_batch: Any = output.predictions  # a list: eval_do_concat_batches is off
        found: list[Array] = [row for batch in by_batch for row in batch]
        places = np.argsort(LongestFirstSampler(rows.lengths).order)
        predictions = [found[place] for place in places]
        return self._recipe.measure(Measured(split, rows, predictions, self.evaluated()))

    def evaluated(self) -> Mapping[str, float]:
        """Return what the evaluation rows gave for the weights in hand, as far as it is known."""
        return {}


class RunTrainer(RunLoop, RecipeTrainer):
    """Trains a recipe by the recipe's own loss."""
