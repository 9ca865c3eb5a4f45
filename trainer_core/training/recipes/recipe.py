"""What a task hands to the run: everything that differs from task to task, and nothing else."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer_core.events import Phase, Reporter
from trainer_core.rows.checking import Survey
from trainer_core.rows.files import InputFile
from trainer_core.spec import JobSpec
from trainer_core.training.data.batching import Draw
from trainer_core.training.data.caching import Cache
from trainer_core.training.data.tokens import Array, TokenizedRows, TokenRow
from trainer_core.training.models.base_model import BaseModel
from trainer_core.training.process.devices import Device

Batch = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Setup:
    """What a task builds from."""

    spec: JobSpec  # without an `auto`
    found: Survey
    files: Mapping[str, InputFile]
    base: BaseModel
    cache: Cache  # where tokenized rows are kept
    device: Device  # to train on
    reporter: Reporter
    enter: Callable[[Phase], None]  # say what the task is busy with: loading comes first


@dataclass(frozen=True, slots=True)
class Measured:
    """What the model made of the rows of a split; both in the order of the file."""

    split: str
    rows: TokenizedRows
    predictions: Sequence[Array]  # one a row; those of a batch may be padded with -100
    # Metrics of the evaluation rows by the same weights, for what is chosen there and used here.
    evaluated: Mapping[str, float] = field(default_factory=dict)

    def numbered(self) -> Iterator[tuple[int, Array]]:
        """Yield each prediction after the number in the split, from 0, of the row that it is of.

        For tasks that leave rows out and so keep these numbers, as the column `row`.
        """
        return zip(self.rows.values("row").tolist(), self.predictions, strict=True)


# Rows to what the model and the loss take.
Collator = Callable[[Sequence[TokenRow]], dict[str, torch.Tensor]]

# (model, batch, number of targets to divide by) to the loss and the model's output.
ForwardLoss = Callable[[Any, Batch, torch.Tensor], tuple[torch.Tensor, Any]]

# (model, batch, the model's output) to what the metrics need of each row, (B, ...), as little as
# can be: all of it is kept. A task that generates does so here.
Predict = Callable[[Any, Batch, Any], torch.Tensor]

# (the model's output, labels, number of targets to divide by) to the loss.
LabelLoss = Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the run trains, on what, and how it is measured."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    rows: Mapping[str, TokenizedRows]  # by split; `train` always
    collate: Collator
    forward_loss: ForwardLoss
    count_targets: Callable[[Batch], torch.Tensor]  # of a batch; what the loss is a mean over
    targets_per_row: float  # their mean over the training rows
    predict: Predict
    measure: Callable[[Measured], dict[str, float]]
    adapter_task: str | None  # peft's name for the task; None where it has none
    new_modules: tuple[str, ...]  # parts that the base model does not have: an adapter saves them
    num_truncated: Mapping[str, int]  # rows cut, a split
    classes: tuple[str, ...]  # label names in the order of the model's outputs; empty without
    pipeline: str  # transformers' name for the task
    usage: str  # lines of Python that load and use the model, with `{folder}`
    draw: Draw | None = None  # changes a row anew each epoch, such as which tokens are masked
    trainer_class: type[Any] | None = None  # a RunLoop with a loss of its own; None: RunTrainer
    # The loss looks at all rows of an optimizer step at once: they are not cut, nor put in order of
    # length, as with negatives that are the other rows' positives. `forward_loss` itself keeps to
    # the micro-batch.
    is_step_whole: bool = False
    # Figures that are no single number, such as those of each class: JSON-ready, one report.
    details: Callable[[Measured], Mapping[str, Any]] | None = None
    # What the model says of each row of a split, JSON-ready, in the order of the file; with the
    # row's number as `row` where rows may be left out.
    predictions: Callable[[Measured], Iterable[Mapping[str, Any]]] | None = None
    # Which tokens of a batch are learnt, where its labels do not say that token by token.
    is_learnt: Callable[[Batch], torch.Tensor] | None = None
    add_files: Callable[[Path], None] | None = None  # into the finished model's folder


@dataclass(frozen=True, slots=True)
class LossOfLabels:
    """The forward pass of a task whose loss is a function of the model's output and the labels.

    The model is not given the labels: it would compute a loss of its own, by other rules. So a
    collator for an encoder-decoder has to make `decoder_input_ids` from them.
    """

    loss: LabelLoss

    def __call__(
        self, model: Any, batch: Batch, num_targets: torch.Tensor
    ) -> tuple[torch.Tensor, Any]:
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        output = model(**inputs)
        return self.loss(output, batch["labels"], num_targets), output


def logits_of(_model: Any, _batch: Batch, output: Any) -> torch.Tensor:
    """Return the logits of each row, to be kept whole."""
    logits: torch.Tensor = output.logits
    return logits


def count_labels(batch: Batch) -> torch.Tensor:
    """Return how many labels are targets: those that are not -100."""
    return batch["labels"].ne(-100).sum()


def count_rows(batch: Batch) -> torch.Tensor:
    """Return the number of rows, for a task with one target a row."""
    return torch.tensor(len(next(iter(batch.values()))))
