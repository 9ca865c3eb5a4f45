"""Texts to token ids, as fast as the tokenizer allows."""

from collections.abc import Callable, Sequence
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from trainer_core.training.data.columns import Array
from trainer_core.training.data.words import WordTokens

Cut = Literal["longest_first", "only_first"]


class Encoded:
    """The tokens of one text or pair of texts."""

    __slots__ = ("_type_ids", "ids", "is_truncated")

    def __init__(
        self, ids: Array, *, type_ids: Callable[[], Sequence[int]] | None, is_truncated: bool
    ) -> None:
        self.ids = ids
        self._type_ids = type_ids  # asked for where a model takes them; None for all 0
        self.is_truncated = is_truncated

    @property
    def type_ids(self) -> Array:
        """Which of the two texts each token is of."""
        if self._type_ids is None:
            return np.zeros(len(self.ids), dtype=np.int8)
        return np.array(self._type_ids(), dtype=np.int8)


def encode(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str | tuple[str, str]],
    *,
    max_length: int,
    cut: Cut = "longest_first",
) -> list[Encoded]:
    """Return the tokens of texts, or of pairs of texts, with the tokenizer's special tokens.

    Args:
        tokenizer: a fast or a slow one.
        texts: texts, or pairs of them.
        max_length: tokens kept, special ones among them.
        cut: what of a pair gets shorter: the longer text first, or the first one alone, which then
            has to have enough of them.
    """
    if not texts:
        return []
    if not tokenizer.is_fast:
        return [_encode_slowly(tokenizer, text, max_length=max_length, cut=cut) for text in texts]
    backend: Tokenizer = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    single = [text for text in texts if isinstance(text, str)]
    is_plain = len(single) == len(texts) and tokenizer.truncation_side == "right"
    if is_plain and (words := _words_of(tokenizer, single)):
        return [
            Encoded(ids, type_ids=None, is_truncated=is_truncated)
            for ids, is_truncated in words.encode(single, max_length=max_length)
        ]
    side = tokenizer.truncation_side
    return _encode_whole(backend, texts, max_length=max_length, cut=cut, side=side)


# The words of each tokenizer, for as long as it lives and takes no tokens more.
_known_words: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[int, WordTokens | None]]
_known_words = WeakKeyDictionary()


def _words_of(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> WordTokens | None:
    num_tokens, words = _known_words.get(tokenizer, (-1, None))
    if num_tokens != len(tokenizer):
        words = WordTokens.of(tokenizer.backend_tokenizer, texts)
        _known_words[tokenizer] = (len(tokenizer), words)
    return words


def _encode_whole(
    backend: Tokenizer,
    texts: Sequence[str | tuple[str, str]],
    *,
    max_length: int,
    cut: Cut,
    side: str,
) -> list[Encoded]:
    # Nobody asks where in the text a token stands, which takes a fifth of the time to find out.
    encoded = [_encoded(row) for row in backend.encode_batch_fast(list(texts))]
    long_ones = [number for number, row in enumerate(encoded) if len(row.ids) > max_length]
    if long_ones:
        backend.enable_truncation(max_length, strategy=cut, direction=side)
        cut_ones = backend.encode_batch_fast([texts[number] for number in long_ones])
        backend.no_truncation()
        for number, row in zip(long_ones, cut_ones, strict=True):
            encoded[number] = _encoded(row, is_truncated=True)
    return encoded


def _encoded(row: Any, *, is_truncated: bool = False) -> Encoded:
    ids = np.array(row.ids, dtype=np.int32)
    return Encoded(ids, type_ids=lambda: row.type_ids, is_truncated=is_truncated)


def _encode_slowly(
    tokenizer: PreTrainedTokenizerBase,
    text: str | tuple[str, str],
    *,
    max_length: int,
    cut: Cut,
) -> Encoded:
    first, second = (text, None) if isinstance(text, str) else text
    options: dict[str, Any] = {"return_token_type_ids": True, "verbose": False}
    row = tokenizer(first, second, **options)
    is_long = len(row["input_ids"]) > max_length
    if is_long:
        row = tokenizer(first, second, truncation=cut, max_length=max_length, **options)
    ids = np.array(row["input_ids"], dtype=np.int32)
    type_ids = row.get("token_type_ids")
    return Encoded(ids, type_ids=(lambda: type_ids) if type_ids else None, is_truncated=is_long)
