"""Rows as the model reads them: text again, with what of it is learnt."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from trainer_core.inspection import Rendered, Segment
from trainer_core.training.data.tokens import TokenRow
from trainer_core.training.recipes.recipe import Recipe

_MAX_CHARACTERS = 2_000  # of a segment
_IGNORED = -100


def render(recipe: Recipe, row: TokenRow) -> Rendered:
    """Return one row; where a part of it is drawn anew in each epoch, one draw of it."""
    drawn = recipe.draw(row, np.random.default_rng(0)) if recipe.draw else row
    batch = recipe.collate([drawn])
    ids, labels = batch["input_ids"], batch.get("labels")
    is_learnt = recipe.is_learnt(batch) if recipe.is_learnt else _mask(batch, ids, labels)
    segments: list[Segment] = []
    for sequence, learnt in zip(ids.flatten(0, -2), is_learnt.flatten(0, -2), strict=True):
        segments += _segments(recipe.tokenizer, sequence.tolist(), learnt.tolist())
    if labels is None or is_learnt.any():
        return Rendered(tuple(segments))
    if labels.ndim == 2 and "decoder_input_ids" in batch:
        written = [int(token) for token in labels[0] if token != _IGNORED]
        text = _text(recipe.tokenizer, written)
        return Rendered((*segments, Segment(text, is_learnt=True)))
    return Rendered(tuple(segments), _target(labels[0], recipe.classes))


def _mask(batch: Any, ids: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    """Return which tokens are learnt, or are of the right choice; none of any other target."""
    if "is_learnt" in batch and batch["is_learnt"].shape == ids.shape:
        return torch.as_tensor(batch["is_learnt"]).bool()
    learnt = torch.zeros_like(ids, dtype=torch.bool)
    if labels is None or labels.shape not in (ids.shape, ids.shape[:-1]):
        return learnt
    if labels.shape == ids.shape:
        return labels.ne(_IGNORED)
    return learnt if ids.ndim == 2 else labels.eq(1)[..., None].expand(ids.shape)


def _segments(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], is_learnt: Sequence[bool]
) -> Iterator[Segment]:
    tokens = [
        (token, learnt)
        for token, learnt in zip(ids, is_learnt, strict=True)
        if learnt or token != tokenizer.pad_token_id
    ]
    for learnt, run in groupby(tokens, key=lambda one: one[1]):
        yield Segment(_text(tokenizer, [token for token, _ in run]), bool(learnt))


def _text(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    text = str(tokenizer.decode(ids))
    return text if len(text) <= _MAX_CHARACTERS else text[: _MAX_CHARACTERS - 1] + "…"


def _target(labels: torch.Tensor, classes: Sequence[str]) -> str | None:
    """Return a row's label as people know it; None where it has none."""
    if not classes:
        return None
    values = labels.flatten().tolist()
    if len(values) == len(classes) > 1 and set(values) <= {0, 1}:  # a mark for each class
        return ", ".join(name for name, mark in zip(classes, values, strict=True) if mark)
    if len(values) == 1 and labels.dtype == torch.int64 and values[0] < len(classes):
        return str(classes[int(values[0])])
    return ", ".join(f"{value:g}" for value in values)
