"""Which token of a text is of which word or span.

A text is tokenized whole, words joined by a space, as it will be when the model is used. Tokens
know the characters they are of, so that words of which a tokenizer makes nothing, and characters
that it changes or leaves out, shift nothing.

Shapes: N tokens of a text, special ones not counted, W words, U units of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from trainer_core.errors import UnusableModel
from trainer_core.spec.tasks.token_classification import OUTSIDE, SpansRow, TaggedRow
from trainer_core.training.data.tokens import Array

NO_TOKEN = -1


@dataclass(frozen=True, slots=True)
class PlacedTokens:
    """The tokens of a text, and where those of the whole text are in it."""

    ids: Sequence[int]  # at most max_length, with special tokens
    type_ids: Sequence[int]
    num_kept: int  # tokens of the whole text from this position on were cut
    positions: Array  # (N,) in the tokens of the whole text, with special ones
    starts: Array  # (N,) first character, white space before it not counted
    ends: Array  # (N,) first character after it; equal to the start for white space alone

    @property
    def is_truncated(self) -> bool:
        """Whether tokens were cut."""
        return len(self.positions) > 0 and bool(self.positions[-1] >= self.num_kept)

    def kept(self, positions: Array) -> Array:
        """Return positions with NO_TOKEN in place of those that were cut."""
        return np.where(positions < self.num_kept, positions, NO_TOKEN)


def check_places(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UnusableModel for a tokenizer that can't say where its tokens are."""
    if not tokenizer.is_fast:
        raise UnusableModel(
            f"the model's tokenizer, {type(tokenizer).__name__}, can't tell which characters a "
            "token is of, so no token can be given the tag of a word.",
            hint="Use a model with a tokenizer.json (a fast tokenizer).",
        )


def encode_places(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, max_length: int
) -> list[PlacedTokens]:
    """Return the tokens of texts, with the tokenizer's special tokens."""
    backend: Any = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    whole = backend.encode_batch(list(texts))
    long_ones = [number for number, row in enumerate(whole) if len(row.ids) > max_length]
    cut = list(whole)
    if long_ones:
        backend.enable_truncation(max_length)
        encoded = backend.encode_batch([texts[number] for number in long_ones])
        for number, row in zip(long_ones, encoded, strict=True):
            cut[number] = row
        backend.no_truncation()
    return [_placed(text, row, part) for text, row, part in zip(texts, whole, cut, strict=True)]


def _placed(text: str, whole: Any, cut: Any) -> PlacedTokens:
    places = [
        (position, start + _num_spaces(text, start, end), end)
        for position, (is_special, (start, end)) in enumerate(
            zip(whole.special_tokens_mask, whole.offsets, strict=True)
        )
        if not is_special
    ]
    places_N3 = np.array(places, dtype=np.int64).reshape(-1, 3)
    num_kept = len(cut.ids)
    while num_kept and cut.special_tokens_mask[num_kept - 1]:
        num_kept -= 1
    return PlacedTokens(
        cut.ids,
        cut.type_ids,
        num_kept,
        positions=places_N3[:, 0],
        starts=places_N3[:, 1],
        ends=places_N3[:, 2],
    )


def _num_spaces(text: str, start: int, end: int) -> int:
    """Return how many characters at the start of a part are white space."""
    part = text[start:end]
    return len(part) - len(part.lstrip())


@dataclass(frozen=True, slots=True)
class JoinedWords:
    """Words as one text."""

    text: str
    starts: Array  # (W,) of each word; -1 of one of white space, which is not in the text


def join_words(words: Sequence[str]) -> JoinedWords:
    """Return words joined by a space, without white space around them."""
    stripped = [word.strip() for word in words]
    starts, end = [], 0
    for word in stripped:
        starts.append(end if word else -1)
        end += len(word) + 1 if word else 0
    return JoinedWords(" ".join(word for word in stripped if word), np.array(starts))


def first_tokens(joined: JoinedWords, tokens: PlacedTokens) -> Array:
    """Return the position of each word's first token, (W,); NO_TOKEN where it has none.

    A token of the white space before a word is the word's, as SentencePiece's lone "▁".
    """
    firsts_W = np.full(len(joined.starts), NO_TOKEN)
    in_text = np.flatnonzero(joined.starts >= 0)
    if not len(in_text):
        return firsts_W
    owner_N = np.searchsorted(joined.starts[in_text], tokens.starts, side="right") - 1
    owners, numbers = np.unique(owner_N, return_index=True)
    firsts_W[in_text[owners]] = tokens.kept(tokens.positions[numbers])
    return firsts_W


@dataclass(frozen=True, slots=True)
class Units:
    """What is judged in a row: its words, or the tokens of a text with spans."""

    tokens: Array  # (U,) position of the token that stands for the unit, or NO_TOKEN
    tags: Sequence[str]
    starts: Array  # (U,) of units of a text with spans: the first character
    ends: Array  # (U,) and the first one after


def units_of_words(row: TaggedRow, joined: JoinedWords, tokens: PlacedTokens) -> Units:
    """Return the words of a row."""
    none = np.empty(0)
    return Units(first_tokens(joined, tokens), row.tags, none, none)


def units_of_spans(row: SpansRow, tokens: PlacedTokens) -> Units:
    """Return the tokens of a text, and each span that has no token.

    All tokens that overlap a span are of it: B- the first, I- the others.
    """
    tags = [OUTSIDE] * len(tokens.positions)
    lost = []
    for span in row.spans:
        first = int(np.searchsorted(tokens.ends, span.start, side="right"))
        after = int(np.searchsorted(tokens.starts, span.end, side="left"))
        free = [number for number in range(first, after) if tags[number] == OUTSIDE]
        for number in free:
            tags[number] = f"{'B' if number == free[0] else 'I'}-{span.label}"
        if not free:
            lost.append(span)
    return Units(
        tokens=np.append(tokens.kept(tokens.positions), [NO_TOKEN] * len(lost)),
        tags=tags + [f"B-{span.label}" for span in lost],
        starts=np.append(tokens.starts, [span.start for span in lost]),
        ends=np.append(tokens.ends, [span.end for span in lost]),
    )
