"""What a task hands to the run: everything that differs from task to task, and nothing else."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_utils import EvalPrediction

from trainer_core.events import Phase, Reporter
from trainer_core.rows.checking import Survey
from trainer_core.rows.files import InputFile
from trainer_core.spec import JobSpec
from trainer_core.training.models import BaseModel
from trainer_core.training.tokens import TokenizedRows, TokenRow

Collator = Callable[[Sequence[TokenRow]], dict[str, torch.Tensor]]
Loss = Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Setup:
    """What a task builds from."""

    spec: JobSpec  # without an `auto`
    found: Survey
    files: Mapping[str, InputFile]
    base: BaseModel
    cache: Path  # a directory for tokenized rows
    reporter: Reporter
    enter: Callable[[Phase], None]  # say what the task is busy with: loading comes first


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the run trains, on what, and how it is measured."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    rows: Mapping[str, TokenizedRows]  # by split; `train` always
    collate: Collator
    loss: Loss  # of the model's output, the labels and the number of targets in the step
    count_targets: Callable[[torch.Tensor], torch.Tensor]  # in labels; what the loss is a mean over
    compute_metrics: Callable[[EvalPrediction], dict[str, float]]
    reduce_logits: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None  # before keeping
    adapter_task: str  # peft's name for the task
    new_modules: tuple[str, ...]  # parts that the base model does not have: an adapter saves them
    num_truncated: Mapping[str, int]  # rows cut, a split
    classes: tuple[str, ...]  # label names in the order of the model's outputs; empty without
    pipeline: str  # transformers' name for the task
    usage: str  # lines of Python that load and use the model, with `{folder}`


def count_labels(labels: torch.Tensor) -> torch.Tensor:
    """Return how many labels are targets: those that are not -100."""
    return labels.ne(-100).sum()
