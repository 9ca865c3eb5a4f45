"""Several examples in one row of a batch, each seeing itself alone.

Positions begin anew with each example. Without an attention mask, transformers 5 takes that for the
border across which no token looks (`masking_utils.find_packed_sequence_indices`).
Shapes: B examples, R rows that they are packed into, T tokens of the longest of these.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils.import_utils import is_flash_attn_2_available

from trainer_core.training.data.tokens import Array
from trainer_core.training.recipes.language_loss import measuring

_LEAK_SHARE = 1e-3  # of what an example before another changes when it is seen


def pack(lengths: Sequence[int], *, capacity: int) -> list[list[int]]:
    """Return which examples go into which row: best fit, the longest first.

    Args:
        lengths: tokens of each example, none above the capacity.
        capacity: tokens of a row.
    """
    rows: list[list[int]] = []
    free: list[int] = []
    for example in np.argsort([-length for length in lengths], kind="stable").tolist():
        length = lengths[example]
        fitting = [(space, row) for row, space in enumerate(free) if space >= length]
        if fitting:
            _, row = min(fitting)
            rows[row].append(example)
            free[row] -= length
        else:
            rows.append([example])
            free.append(capacity - length)
    return rows


def packed_batch(
    ids: Sequence[Array], labels: Sequence[Array], *, capacity: int, pad_token_id: int
) -> dict[str, torch.Tensor]:
    """Return examples packed into rows of up to `capacity` tokens.

    `lengths` comes first, with one number an example: a batch's size is that of its first tensor.
    `examples` tells of which example each token is, and -1 of what fills up the rows.
    """
    lengths = [len(example) for example in ids]
    rows = pack(lengths, capacity=capacity)
    width = max(sum(lengths[example] for example in row) for row in rows)
    shape = (len(rows), width)
    ids_RT = np.full(shape, pad_token_id, dtype=np.int64)
    labels_RT = np.full(shape, -100, dtype=np.int64)
    examples_RT = np.full(shape, -1, dtype=np.int64)
    positions_RT = np.zeros(shape, dtype=np.int64)
    for number, row in enumerate(rows):
        start = 0
        for example in row:
            here = slice(start, start + lengths[example])
            ids_RT[number, here] = ids[example]
            labels_RT[number, here] = labels[example]
            labels_RT[number, start] = -100  # no token of its own comes before it
            examples_RT[number, here] = example
            positions_RT[number, here] = np.arange(lengths[example])
            start = here.stop
        positions_RT[number, start:] = np.arange(width - start)
    return {
        "lengths": torch.tensor(lengths),
        "input_ids": torch.from_numpy(ids_RT),
        "position_ids": torch.from_numpy(positions_RT),
        "labels": torch.from_numpy(labels_RT),
        "examples": torch.from_numpy(examples_RT),
    }


def has_flash_attention(config: PreTrainedConfig) -> bool:
    """Return whether packed rows can be computed without what would be masked."""
    found: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return is_flash_attn_2_available() and getattr(found, "_supports_flash_attn", False)


def keeps_apart(model: PreTrainedModel) -> bool:
    """Return whether examples that share a row do not see each other, measured on two of them."""
    num_words = int(model.config.get_text_config().vocab_size)
    chance = np.random.default_rng(0)
    first, second = (chance.integers(num_words, size=size).tolist() for size in (5, 4))
    device = model.device  # one that was loaded quantized is on the GPU already
    alone = torch.tensor([second], device=device)
    both = torch.tensor([[*first, *second]], device=device)
    restarted = torch.tensor([[*range(len(first)), *range(len(second))]], device=device)
    try:
        with measuring(model):
            alone_TV = _logits(model, alone, None)
            after_TV = _logits(model, both, None)[len(first) :]
            packed_TV = _logits(model, both, restarted)[len(first) :]
    except TypeError:  # it takes no positions
        return False
    leak = (packed_TV - alone_TV).norm()
    return bool(leak <= _LEAK_SHARE * (after_TV - alone_TV).norm())


def _logits(model: Any, ids_1T: torch.Tensor, positions_1T: torch.Tensor | None) -> torch.Tensor:
    positions = {} if positions_1T is None else {"position_ids": positions_1T}
    logits_TV: torch.Tensor = model(input_ids=ids_1T, **positions).logits[0]
    return logits_TV
