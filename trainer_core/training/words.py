"""Texts to token ids word by word: a word that was seen before is looked up, not taken apart again.

Tokenizers that split at whitespace before anything else, as BERT's, make the same tokens of a word
whatever stands around it. Texts repeat their words, so that most of the work is a lookup; the
tokenizer itself gets the words that are new.
"""

import json
from collections.abc import Sequence
from itertools import chain
from typing import Any, Self

import numpy as np
from tokenizers import Tokenizer

from trainer_core.training.columns import Array

_MAX_WORDS = 1 << 16  # known at once, about 10 MB; then it starts anew
_MAX_CHARACTERS = 32  # of a word that is remembered
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
            self._known = {"": b""}
            new = set().union(*rows)
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
        rows = self._backend.encode_batch_fast(words, add_special_tokens=False)
        self._known.update((w, self._packed(row.ids)) for w, row in zip(words, rows, strict=True))

    def _packed(self, ids: Sequence[int]) -> bytes:
        return np.array(ids, dtype=self._dtype).tobytes()


def _is_wordwise(backend: Tokenizer) -> bool:
    """Return whether each part of a tokenizer is known to see no further than the next space."""
    normalizers, splitters = _parts(backend.normalizer), _parts(backend.pre_tokenizer)
    return (
        {part["type"] for part in normalizers} <= _NORMALIZERS
        and {part["type"] for part in splitters} <= _FURTHER_SPLITTERS
        and any(part["type"] in _SPLITTERS for part in splitters[:1])
        and not getattr(backend.model, "dropout", None)
        and not any(" " in t.content for t in backend.get_added_tokens_decoder().values())
    )


def _special_tokens(backend: Tokenizer) -> tuple[list[int], list[int]] | None:
    """Return the ids before and after a text; None where the tokenizer's way is not known."""
    match _parts(backend.post_processor):
        case []:
            return [], []
        case [{"type": "BertProcessing", "cls": [_, int(first)], "sep": [_, int(last)]}]:
            return [first], [last]
        case [{"type": "TemplateProcessing", "single": pieces, "special_tokens": special}]:
            text = {"Sequence": {"id": "A", "type_id": 0}}
            if pieces.count(text) != 1 or any(_type_of(piece) for piece in pieces):
                return None
            ids = [special[p["SpecialToken"]["id"]]["ids"] if p != text else [] for p in pieces]
            place = pieces.index(text)
            return list(chain(*ids[:place])), list(chain(*ids[place:]))
        case _:
            return None


def _type_of(piece: dict[str, Any]) -> int:
    (values,) = piece.values()
    return int(values["type_id"])


def _parts(component: Any) -> list[dict[str, Any]]:
    """Return the settings of a part of a tokenizer, of each one where it is a sequence."""
    if component is None:
        return []
    settings = json.loads(component.__getstate__())
    for name in ("normalizers", "pretokenizers", "processors"):
        if name in settings:
            return list(settings[name])
    return [settings]
