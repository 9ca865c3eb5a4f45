"""`transformers.Trainer` with the loss, the predictions and the figures of a recipe."""

from collections.abc import Iterable, Mapping
from functools import cache, partial
from typing import Any

import accelerate.optimizer
import numpy as np
import torch
from accelerate.utils import DistributedType
from transformers import Trainer
from transformers.trainer_utils import EvalPrediction

from trainer_core.spec import JobSpec
from trainer_core.training.data.batching import longest_first
from trainer_core.training.data.tokens import Array, TokenizedRows
from trainer_core.training.loop.run_loop import RunLoop
from trainer_core.training.loop.steps import MicroBatch
from trainer_core.training.recipes.recipe import Measured, Recipe

# accelerate looks on the disk for an optimizer's package, twice at each step.
accelerate.optimizer.is_lomo_available = cache(accelerate.optimizer.is_lomo_available)


class RecipeTrainer(Trainer):
    """Learns and measures as a recipe says."""

    # The recipe's loss is a mean over the whole optimizer step, whatever the model's own does.
    loss_is_scaled_for_ga = True

    _recipe: Recipe  # set by whoever makes it
    _spec: JobSpec
    measured: Measured | None  # by the latest evaluation
    _divisor: torch.Tensor  # of a step's loss: the targets of a mean full step
    _told_share: torch.Tensor  # of the step in hand: what its loss is told by
    _weights: list[torch.nn.Parameter]  # that learn
    _is_learning = False  # model and optimizer are in their training mode
    _measured_losses: list[torch.Tensor]  # of each batch so far: its mean loss and its targets

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor]:
        # The stock one divides a step's loss by the step's own targets. Steps hold rows of like
        # length, so that a token of a short row would weigh many times one of a long row (ADR 13).
        steps, found = super().get_batch_samples(epoch_iterator, num_batches, device)
        num_targets: Any = found  # typed as if it could be unknown
        # What is told is the mean over the step's own targets: nats a token, also of short rows.
        self._told_share = self._divisor / num_targets
        return steps, self._divisor

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        # The stock one takes every label of -100 for padding, which a regression may well predict.
        micro_batches: list[MicroBatch] = [part for step in batch_samples for part in step]
        counts = [
            self._recipe.count_targets(part.inputs) for part in micro_batches if not part.is_ballast
        ]
        count = sum(counts, start=torch.tensor(0)).to(device)
        return self.accelerator.gather(count).sum() if self.args.world_size > 1 else count

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        model, loader = super()._prepare_for_training(*args, **kwargs)  # type: ignore[no-untyped-call]
        num_rows = min(self._spec.training.batch_size, len(self._recipe.rows["train"]))
        num_targets = num_rows * self._recipe.targets_per_row
        self._divisor = torch.tensor(num_targets, device=self.args.device)
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        if self.args.world_size == 1:
            # The stock one walks over all modules for the weights: 2 % of a small model's step.
            model.zero_grad = partial(_drop_gradients, self._weights)
        return model, loader

    def _clip_grad_norm(self, model: Any) -> Any:
        # The stock one walks over all modules for the weights, and again to look for shared ones.
        if self.args.world_size > 1 or self.accelerator.scaler is not None:
            return super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]
        return torch.nn.utils.clip_grad_norm_(self._weights, self.args.max_grad_norm)

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        loss, output = self._recipe.forward_loss(model, inputs, num_items_in_batch)
        if self.args.world_size > 1:
            loss = loss * self.accelerator.num_processes  # gradients are averaged over processes
        return (loss, output) if return_outputs else loss

    def training_step(
        self, model: Any, inputs: Any, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        # The stock one walks over all modules at each step, and over all tensors to move them to
        # where they are: together a fifth of a small model's step.
        own_model: Any = self.model
        if not (self._is_learning and own_model.training):  # measuring turned it off
            model.train()
            optimizer: Any = self.optimizer
            if hasattr(optimizer, "train"):
                optimizer.train()
            self._is_learning = True
        batch = inputs if self.args.device.type == "cpu" else self._prepare_inputs(dict(inputs))
        with self.compute_loss_context_manager():
            loss = self.compute_loss(model, batch, num_items_in_batch=num_items_in_batch)
        is_deepspeed = self.accelerator.distributed_type == DistributedType.DEEPSPEED
        self.accelerator.backward(loss, **({"scale_wrt_gas": False} if is_deepspeed else {}))
        told: torch.Tensor = loss.detach() * self._told_share
        return told

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        rows: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        self.compute_metrics = partial(self._figures, rows=rows, split=metric_key_prefix)
        self._measured_losses = []
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
        self._measured_losses.append(torch.stack([loss.detach().float(), num_targets.float()]))
        # Metrics take labels from the rows; the loop measures nothing where it sees none.
        return loss.detach(), predictions, predictions.new_zeros(len(predictions))

    def _figures(
        self, output: EvalPrediction, *, rows: TokenizedRows, split: str
    ) -> dict[str, float]:
        by_batch: Any = output.predictions  # a list: eval_do_concat_batches is off
        found: list[Array] = [row for batch in by_batch for row in batch]
        places = np.argsort(longest_first(rows.lengths))
        predictions = [found[place] for place in places]
        self.measured = Measured(split, rows, predictions, self.evaluated())
        return {"loss": self._measured_loss(), **self._recipe.measure(self.measured)}

    def _measured_loss(self) -> float:
        # The stock one is a mean over batches, whatever there is in each.
        found_P2 = torch.stack(self._measured_losses)
        if self.args.world_size > 1:
            found_P2 = self.accelerator.gather(found_P2)
        losses_P, counts_P = found_P2.cpu().double().unbind(dim=1)
        return float((losses_P * counts_P).sum() / counts_P.sum())

    def evaluated(self) -> Mapping[str, float]:
        """Return what the evaluation rows gave for the weights in hand, as far as it is known."""
        return {}


def _drop_gradients(weights: Iterable[torch.nn.Parameter]) -> None:
    for weight in weights:
        weight.grad = None


class RunTrainer(RunLoop, RecipeTrainer):
    """Trains a recipe by the recipe's own loss."""
