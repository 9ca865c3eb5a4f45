"""The best span of each window of a context, and the answer to a question from all its windows.

A span's score is the sum of two logits: of its first token as a start, of its last as an end.
Shapes: B windows of a batch, W windows of a context, T tokens, L tokens of the longest span.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional


def span_loss(
    start_BT: torch.Tensor,
    end_BT: torch.Tensor,
    span_B2: torch.Tensor,
    *,
    is_padding_BT: torch.Tensor,
) -> torch.Tensor:
    """Return the sum over windows of the mean cross-entropy, in nats, of start and end.

    Padding is no place to choose, so that it does not matter which windows share a batch.
    """
    start_BT = start_BT.float().masked_fill(is_padding_BT, -torch.inf)
    end_BT = end_BT.float().masked_fill(is_padding_BT, -torch.inf)
    start_B, end_B = span_B2.unbind(1)
    of_starts = functional.cross_entropy(start_BT, start_B, reduction="sum")
    return (of_starts + functional.cross_entropy(end_BT, end_B, reduction="sum")) / 2


def best_spans(
    start_BT: torch.Tensor, end_BT: torch.Tensor, is_context_BT: torch.Tensor, *, max_tokens: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return score, first and last token of the best span of the context, each (B,).

    All spans of up to `max_tokens` are looked at. Where there is no context the score is -inf.
    """
    num_lasts = min(max_tokens, start_BT.shape[1])
    start_BT = start_BT.float().masked_fill(~is_context_BT, -torch.inf)
    end_BT = end_BT.float().masked_fill(~is_context_BT, -torch.inf)
    end_BTL = functional.pad(end_BT, (0, num_lasts - 1), value=-torch.inf).unfold(1, num_lasts, 1)
    score_B, place_B = (start_BT[:, :, None] + end_BTL).flatten(1).max(dim=1)
    first_B = place_B // num_lasts
    return score_B, first_B, first_B + place_B % num_lasts


@dataclass(frozen=True, slots=True)
class Guess:
    """A part of a context; with no answer the text is empty, and there is no start and end."""

    text: str
    score: float | None  # None where the context has no tokens
    null_score: float  # of no answer
    start: int | None = None  # characters
    end: int | None = None


def choose_answer(
    context: str,
    spans_W4: npt.NDArray[np.float32],
    places_of: Callable[[int], npt.NDArray[np.int32]],
    *,
    null_threshold: float | None,
) -> Guess:
    """Return the best span of all windows, or no answer.

    Args:
        context: the text.
        spans_W4: of each window the score of no answer, the best span's, its first and last token.
        places_of: returns the places in the context, in characters, of a window's tokens, (T, 2).
        null_threshold: by how much no answer has to be better, in the least of the windows; None
            if there always is one.
    """
    null_score = float(spans_W4[:, 0].min())
    best = int(spans_W4[:, 1].argmax())
    _, score, first, last = spans_W4[best].tolist()
    is_null = null_threshold is not None and null_score - score > null_threshold
    if not np.isfinite(score):
        return Guess("", None, null_score)
    if is_null:
        return Guess("", score, null_score)
    places_T2 = places_of(best)
    start, end = int(places_T2[int(first), 0]), int(places_T2[int(last), 1])
    start, end = _without_space(context, start, end)
    return Guess(context[start:end], score, null_score, start, end)


def _without_space(context: str, start: int, end: int) -> tuple[int, int]:
    """Return a span's ends without the space around it: some tokenizers' tokens begin with one."""
    text = context[start:end]
    start += len(text) - len(text.lstrip())
    return start, start + len(text.strip())
