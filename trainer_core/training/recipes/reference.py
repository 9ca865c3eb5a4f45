"""What a frozen reference model says of the rows, computed once before the first step.

The reference is the base model as it was loaded, of which nothing but these numbers is needed. So
no second model is held in memory, and a resumed run computes them from the base model again.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from trainer_core.events import Phase, PhaseEntered
from trainer_core.training.data.batching import longest_first
from trainer_core.training.data.tokens import TokenizedRows, batched
from trainer_core.training.recipes.recipe import Batch, Collator, Setup

REFERENCE = "reference"  # the column

_NUM_REPORTS = 50  # of progress

Score = Callable[[Any, Batch], torch.Tensor]  # (model, batch) to numbers of each row, (B, S)


def with_reference(
    setup: Setup, rows: TokenizedRows, *, model: Any, collate: Collator, score: Score
) -> TokenizedRows:
    """Return the rows with the column `reference`: what `score` gives under the model.

    Args:
        setup: says on which device and in which precision; the policy is scored in the same.
        rows: of any split.
        model: the base model before any training.
        collate: makes a batch of rows.
        score: numbers of each row.
    """
    if setup.base.is_hollow:  # which says nothing
        return rows.with_column(REFERENCE, np.zeros((len(rows), 1), dtype=np.float32))
    spec, device = setup.spec, setup.device.kind
    assert spec.evaluation.batch_size != "auto", "the spec is resolved before"
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(spec.training.precision)
    order = longest_first(rows.lengths)
    batches = list(batched(order.tolist(), size=spec.evaluation.batch_size))
    if not getattr(model, "is_quantized", False):  # which is there already, and can't be moved
        model.to(device)
    model.eval()
    found = []
    for number, places in enumerate(batches):
        if number % -(-len(batches) // _NUM_REPORTS) == 0:
            setup.reporter.report(PhaseEntered(Phase.TOKENIZING, fraction=number / len(batches)))
        batch = {name: part.to(device) for name, part in collate([rows[p] for p in places]).items()}
        with torch.no_grad(), torch.autocast(device, dtype=dtype, enabled=dtype is not None):
            found.append(score(model, batch).float().cpu().numpy())
    in_order = np.concatenate(found)
    in_order[order] = in_order.copy()
    return rows.with_column(REFERENCE, in_order)
