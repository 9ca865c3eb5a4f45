"""Preference pairs: as tokens, and the figures of their rewards, whatever the task.

Shapes: B pairs; of the two sequences of a pair the chosen one comes first.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from trainer_core.training.data.tokens import TokenRow
from trainer_core.training.recipes.completions import COLUMNS, Asked, Completion, Encode, row_of
from trainer_core.training.recipes.recipe import Measured, Setup
from trainer_core.training.recipes.tokenizing import Tokenized, tokenize_splits

_NO_NUMBERS: Mapping[str, Callable[[Any], float]] = {}


def tokenize_pairs(
    setup: Setup, *, encode: Encode, numbers: Mapping[str, Callable[[Any], float]] = _NO_NUMBERS
) -> dict[str, Tokenized]:
    """Return the pairs of every split that differ within `max_length`.

    Args:
        setup: whose rows.
        encode: prompts and completions to sequences of up to `max_length` tokens.
        numbers: further columns, each a number of the row.
    """

    def encode_rows(rows: Sequence[Any], counts: Counter[str]) -> Iterator[TokenRow]:
        found = iter(encode([side for row in rows for side in _sides(row.parts)]))
        for row, pair in zip(rows, zip(found, found, strict=True), strict=True):
            number = counts["rows"]
            counts["rows"] += 1
            counts["truncated"] += any(one.is_truncated for one in pair)
            counts["chats_with_lost_turns"] += any(one.has_lost_turns for one in pair)
            if _is_useful(*pair):
                more = {name: np.array([of(row)]) for name, of in numbers.items()}
                yield row_of(pair, number=number) | more

    columns = {**COLUMNS, **dict.fromkeys(numbers, np.float32)}
    return tokenize_splits(setup, columns=columns, encode=encode_rows)


def _sides(parts: tuple[Any, Any, Any]) -> list[Asked]:
    prompt, chosen, rejected = parts
    return [(prompt, chosen), (prompt, rejected)]


def _is_useful(chosen: Completion, rejected: Completion) -> bool:
    is_something_left = chosen.num_learnt > 0 and rejected.num_learnt > 0
    return is_something_left and not np.array_equal(chosen.ids, rejected.ids)


def rewards_and_losses(rewards_B2: torch.Tensor, losses_B: torch.Tensor) -> torch.Tensor:
    """Return what the figures need of each pair, (B, 3)."""
    return torch.cat([rewards_B2, losses_B[:, None]], dim=1).float()


def pair_metrics(measured: Measured) -> dict[str, float]:
    """Return how often the chosen sequence has the higher reward, and by how much.

    A tie counts half: a model that is its own reference prefers nothing.
    """
    chosen_B, rejected_B, losses_B = np.stack(measured.predictions).astype(np.float64).T[:3]
    margins_B = chosen_B - rejected_B
    return {
        "reward_accuracy": float(np.heaviside(margins_B, 0.5).mean()),
        "reward_margin": float(margins_B.mean()),
        "chosen_reward": float(chosen_B.mean()),
        "rejected_reward": float(rejected_B.mean()),
        "loss": float(losses_B.mean()),
    }


def pair_predictions(measured: Measured) -> Iterator[Mapping[str, float]]:
    """Yield the rewards of each pair."""
    for row, prediction in measured.numbered():
        chosen, rejected = map(float, prediction[:2])
        yield {
            "row": row,
            "chosen_reward": chosen,
            "rejected_reward": rejected,
            "reward_margin": chosen - rejected,
        }
