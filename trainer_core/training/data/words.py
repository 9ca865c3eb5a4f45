"""Texts to token ids word by word: a word that was seen before is looked up, not taken apart again.

Tokenizers that split at whitespace before anything else, as BERT's, make the same tokens of a word
whatever stands around it. Texts repeat their words, so that most of the work is a lookup; the
tokenizer itself gets the words that are new.
"""

import json
from collections.abc import Sequence
from itertools import islice
from typing import Any, Self

import numpy as np
from tokenizers import AddedToken, Tokenizer

from trainer_core.training.data.columns import Array

_MAX_WORDS = 1 << 16  # known at once, about 10 MB; then the later half is forgotten
_MAX_CHARACTERS = 32  # of a word that is remembered
_MARKS = "¦|~^"  # one of these stands between new words, the seldom ones first
_NUM_PROBED = 50  # texts on which both ways are compared before this one is trusted

# Parts of a tokenizer that see no further than the next space: these normalizers change characters
# one by one, or marks together with the letter that they belong to.
_NORMALIZERS = {"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents"}
_SPLITTERS = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
_FURTHER_SPLITTERS = {*_SPLITTERS, "Punctuation", "Digits"}


class WordTokens:
    """The tokens of words, learnt from a tokenizer as they come up."""

    def __init__(self, backend: Tokenizer, *, before: Sequence[int], after: Sequence[int]) -> None:
        """Begin without any word.

        Args:
            backend: a tokenizer that makes the same of a word wherever it stands.
            before: ids that it puts before a text.
            after: ids that it puts after a text.
        """
        self._backend = backend
        is_small = max(backend.get_vocab().values(), default=0) < 1 << 16
        self._dtype = np.dtype(np.uint16 if is_small else np.int32)
        self._before = self._packed(before)
        self._after = self._packed(after)
        self._mark = _mark(backend)
        self._known = {"": b""}

    @classmethod
    def of(cls, backend: Tokenizer, texts: Sequence[str]) -> Self | None:
        """Return the words of a tokenizer, or None if it has to see whole texts.

        Args:
            backend: the tokenizer, which pads and cuts nothing.
            texts: some texts on which that it makes no difference is seen.
        """
        around = _special_tokens(backend)
        if around is None or not _is_wordwise(backend):
            return None
        words = cls(backend, before=around[0], after=around[1])
        probed = list(texts[:_NUM_PROBED])
        ours = [ids.tolist() for ids, _ in words.encode(probed, max_length=1 << 30)]
        theirs = [row.ids for row in backend.encode_batch_fast(probed)]
        return words if ours == theirs else None

    def encode(self, texts: Sequence[str], *, max_length: int) -> list[tuple[Array, bool]]:
        """Return the ids of each text with the tokens around it, and whether it was cut to fit."""
        rows = [text.split(" ") for text in texts]
        new = set().union(*rows).difference(self._known)
        if len(new) + len(self._known) > _MAX_WORDS:
            # Frequent words came up early; the later half are mostly names and slips of the pen.
            self._known = dict(islice(self._known.items(), max(1, _MAX_WORDS // 2)))
            new = set().union(*rows).difference(self._known)
        self._learn(list(new))
        known = self._known.__getitem__
        room = max_length * self._dtype.itemsize - len(self._before) - len(self._after)
        encoded = []
        for words in rows:
            body = b"".join(map(known, words))
            whole = b"".join((self._before, body[:room], self._after))
            encoded.append((np.frombuffer(whole, self._dtype), len(body) > room))
        for word in new:
            if len(word) > _MAX_CHARACTERS:
                del self._known[word]
        return encoded

    def _learn(self, words: list[str]) -> None:
        packed = self._learnt_together(words)
        if packed is None:
            rows = self._backend.encode_batch_fast(words, add_special_tokens=False)
            packed = [self._packed(row.ids) for row in rows]
        self._known.update(zip(words, packed, strict=True))

    def _learnt_together(self, words: Sequence[str]) -> list[bytes] | None:
        """Return the ids of words as of one text, or None if where a word ends can't be told.

        It takes half the time: to begin a text costs more than to take a word apart.
        """
        if self._mark is None or not words:
            return None
        mark, mark_id = self._mark
        text = f" {mark} ".join(words)
        (row,) = self._backend.encode_batch_fast([text], add_special_tokens=False)
        ids = np.array(row.ids, dtype=self._dtype)
        marks = np.flatnonzero(ids == mark_id)
        if len(marks) != len(words) - 1:
            return None  # one of the words has the mark in it
        packed, size = ids.tobytes(), ids.itemsize
        starts = [0, *((marks + 1) * size).tolist()]
        ends = [*(marks * size).tolist(), len(packed)]
        return [packed[start:end] for start, end in zip(starts, ends, strict=True)]

    def _packed(self, ids: Sequence[int]) -> bytes:
        return np.array(ids, dtype=self._dtype).tobytes()


def _mark(backend: Tokenizer) -> tuple[str, int] | None:
    """Return a mark that is a token by itself, and its id; None if there is none."""
    for mark in _MARKS:
        ids = backend.encode(mark, add_special_tokens=False).ids
        if len(ids) == 1 and backend.id_to_token(ids[0]) == mark:
            return mark, ids[0]
    return None


def _is_wordwise(backend: Tokenizer) -> bool:
    """Return whether each part of a tokenizer is known to see no further than the next space."""
    normalizers, splitters = _parts(backend.normalizer), _parts(backend.pre_tokenizer)
    return (
        {part["type"] for part in normalizers} <= _NORMALIZERS
        and {part["type"] for part in splitters} <= _FURTHER_SPLITTERS
        and any(part["type"] in _SPLITTERS for part in splitters[:1])
        and not getattr(backend.model, "dropout", None)
        and not any(
            " " in _as_matched(token, backend)
            for token in backend.get_added_tokens_decoder().values()
        )
    )


def _as_matched(token: AddedToken, backend: Tokenizer) -> str:
    """Return the text in which an added token is looked for: often what normalizing made of it."""
    if not token.normalized or backend.normalizer is None:
        return token.content
    found: str = backend.normalizer.normalize_str(token.content)
    return found


def _special_tokens(backend: Tokenizer) -> tuple[list[int], list[int]] | None:
    """Return the ids before and after a text; None where they do not simply stand around it."""
    whole, alone = backend.encode("a"), backend.encode("a", add_special_tokens=False).ids
    if not alone or any(whole.type_ids) or 0 not in whole.special_tokens_mask:
        return None
    start = whole.special_tokens_mask.index(0)
    before, after = whole.ids[:start], whole.ids[start + len(alone) :]
    return (before, after) if [*before, *alone, *after] == whole.ids else None


def _parts(component: Any) -> list[dict[str, Any]]:
    """Return the settings of a part of a tokenizer, of each one where it is a sequence."""
    if component is None:
        return []
    settings = json.loads(component.__getstate__())
    for name in ("normalizers", "pretokenizers", "processors"):
        if name in settings:
            return list(settings[name])
    return [settings]
