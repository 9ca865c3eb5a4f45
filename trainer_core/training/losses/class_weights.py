"""How much classes weigh in the loss of text classification, and batches by them.

Shapes: B rows, C classes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from trainer_core.errors import FieldProblem, InvalidSpec
from trainer_core.spec.parsing import pointer_of
from trainer_core.spec.tasks.text_classification import TextClassification
from trainer_core.training.data.tokens import Array


def class_weights(
    spec: TextClassification, *, classes: Sequence[str], num_rows_C: Array, num_rows: int
) -> torch.Tensor | None:
    """Return how much each class weighs in the loss, (C,); None if all weigh the same.

    Args:
        spec: what the job says of weights.
        classes: names in the order of the model's outputs.
        num_rows_C: training rows that have each class.
        num_rows: training rows.
    """
    given = spec.class_weights
    if given == "none" or spec.problem == "regression":
        return None
    if given == "balanced":
        has_C, has_not_C = num_rows_C, num_rows - num_rows_C
        if spec.problem == "multi-label":  # a class that all rows have has nothing to balance
            return torch.tensor(np.where(has_not_C > 0, has_not_C / has_C, 1.0)).float()
        return torch.tensor(num_rows / (len(classes) * has_C)).float()
    if unknown := sorted(set(given) - set(classes)):
        problem = f"no training row has the class '{unknown[0]}'; there are: {', '.join(classes)}"
        pointer = pointer_of(["class_weights", unknown[0]])
        raise InvalidSpec([FieldProblem(pointer, problem[:500], "Leave it out.")])
    return torch.tensor([given.get(name, 1.0) for name in classes])


def single_label_weight(
    batch: Mapping[str, torch.Tensor], *, weights_C: torch.Tensor
) -> torch.Tensor:
    """Return the sum of the weights of a batch's rows."""
    return weights_C.to(batch["labels"].device)[batch["labels"]].sum()


def multi_label_weight(
    batch: Mapping[str, torch.Tensor], *, weights_C: torch.Tensor
) -> torch.Tensor:
    """Return the sum over a batch's rows of the mean weight of their C decisions."""
    labels_BC = batch["labels"]
    return torch.where(labels_BC > 0, weights_C.to(labels_BC.device), 1.0).mean(dim=1).sum()
