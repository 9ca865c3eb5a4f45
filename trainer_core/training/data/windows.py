"""Windows of a long context: overlapping parts, each with the question before it.

Shapes: T tokens of a window.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

_ELSEWHERE = -1  # the place of a token that is not of the context


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a context, with the question before it."""

    ids: Sequence[int]
    type_ids: Sequence[int]
    places: npt.NDArray[
        np.int64
    ]  # (T, 2): start and end in the context, in characters; -1 elsewhere

    def find(self, start: int, end: int) -> tuple[int, int] | None:
        """Return the first and the last token of a part of the context; None if it is not whole."""
        tokens = np.flatnonzero(self.places[:, 0] != _ELSEWHERE)
        starts, ends = self.places[tokens].T
        first = int(np.searchsorted(ends, start, side="right"))
        last = int(np.searchsorted(starts, end, side="left")) - 1
        if first > last or starts[first] > start or ends[last] < end:
            return None
        return int(tokens[first]), int(tokens[last])


def cut_texts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, max_tokens: int
) -> list[str]:
    """Return the texts, each cut behind its last token that is kept."""
    backend: Any = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    encoded = backend.encode_batch(list(texts), add_special_tokens=False)
    return [
        text if len(tokens) <= max_tokens else text[: tokens.offsets[max_tokens - 1][1]]
        for text, tokens in zip(texts, encoded, strict=True)
    ]


def make_windows(
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[str, str]],
    *,
    max_length: int,
    stride: int,
) -> Iterator[list[Window]]:
    """Yield the windows of each pair of a question and a context.

    Args:
        tokenizer: a fast one: others can't say where in the text a token is.
        pairs: the questions are short enough to leave more than `stride` tokens of a window.
        max_length: tokens of a window, special ones and the question's among them.
        stride: tokens that two neighbouring windows share.
    """
    backend: Any = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.enable_truncation(max_length, stride=stride, strategy="only_second")
    encoded = backend.encode_batch(list(pairs), add_special_tokens=True)
    backend.no_truncation()
    for first in encoded:
        yield [_window(part) for part in (first, *first.overflowing)]


def _window(encoding: Any) -> Window:
    places_T2 = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    is_context_T = np.array([part == 1 for part in encoding.sequence_ids])
    places_T2[~is_context_T] = _ELSEWHERE
    return Window(encoding.ids, encoding.type_ids, places_T2)
