"""Masked language modelling: an encoder guesses the tokens that were masked in a text.

    {"text": "The court of appeal upheld the judgment."}

Which tokens are masked is drawn anew in each epoch, and is the same in every evaluation.
Shapes: B rows of a batch, T tokens.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

from trainer_core.errors import FieldProblem, InvalidSpec, UnusableModel
from trainer_core.events import Phase, Warned
from trainer_core.spec.tasks.masked_lm import MaskedLM
from trainer_core.training.data.batching import attention_mask, pad_rows
from trainer_core.training.data.tokens import Array, TokenRow
from trainer_core.training.models.base_model import (
    BaseModel,
    LoadedModel,
    check_architecture,
    load_model,
)
from trainer_core.training.recipes.language_loss import make_language_loss, own_labels
from trainer_core.training.recipes.recipe import Recipe, Setup, count_labels
from trainer_core.training.recipes.token_losses import token_metrics, token_predictions
from trainer_core.training.recipes.tokenizing import (
    Tokenized,
    check_blocks,
    tell_left_out,
    tokenize_splits,
)

_MILLION = 1_000_000
_SPECIAL = -1  # in place of a word's number: never masked


@dataclass(frozen=True, slots=True)
class _Text:
    """The tokens of a text, without special ones around it, and the word that each belongs to."""

    ids: Array
    words: Array


def check_can_mask(base: BaseModel, spec: MaskedLM) -> None:
    """Raise for a model that can't guess masked tokens, or not those of whole words."""
    check_architecture(base, MODEL_FOR_MASKED_LM_MAPPING, task=spec.task)
    if base.tokenizer.mask_token_id is None or base.tokenizer.pad_token_id is None:
        raise UnusableModel(
            "the model's tokenizer has no token for masking or none for padding.",
            hint="Use a model that was made for masked language modelling, such as a BERT.",
        )
    if spec.whole_word and not base.tokenizer.is_fast:
        message = f"a {type(base.tokenizer).__name__} does not tell which tokens are of one word"
        raise InvalidSpec([FieldProblem("/whole_word", message, "Set it to false.")])


def tokenize_rows(setup: Setup, spec: MaskedLM, draw: "Masking") -> dict[str, Tokenized]:
    """Return the rows of every split, or its blocks, that have something to guess.

    Counted are rows or blocks, those that were cut, and millionths of the targets to be expected.
    """
    tokenizer = setup.base.tokenizer
    before, after = _special_tokens_around(tokenizer)
    assert spec.max_length != "auto", "the spec is resolved before"
    room = spec.max_length - len(before) - len(after)

    def encode_rows(rows: Sequence[Any], counts: Counter[str]) -> Iterator[TokenRow]:
        texts = _texts(tokenizer, [row.text for row in rows])
        parts = _blocks(tokenizer, texts, size=room) if spec.pack else texts
        for part in parts:
            words, row = part.words[:room], counts["rows"]
            counts["rows"] += 1
            counts["truncated"] += len(part.ids) > room
            if (words != _SPECIAL).any():
                counts["targets_e6"] += round(draw.expected_targets(words) * _MILLION)
                yield {
                    "input_ids": np.concatenate([before, part.ids[:room], after]),
                    "words": np.pad(words, (len(before), len(after)), constant_values=_SPECIAL),
                    "row": np.array([row]),
                }

    columns = {"input_ids": np.int32, "words": np.int32, "row": np.int64}
    return tokenize_splits(setup, columns=columns, encode=encode_rows)


def _special_tokens_around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return what the tokenizer puts before and after a text."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    is_special = list(encoded["special_tokens_mask"])
    num_before = is_special.index(0)
    num_after = is_special[::-1].index(0)
    ids: list[int] = encoded["input_ids"]
    return ids[:num_before], ids[len(ids) - num_after :]


def _texts(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> Iterator[_Text]:
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False)
    special = np.asarray(tokenizer.all_special_ids)
    for number, ids in enumerate(encoded["input_ids"]):
        found = encoded.word_ids(number) if tokenizer.is_fast else range(len(ids))
        words = np.array([_SPECIAL if word is None else word for word in found], dtype=np.int32)
        # The unknown token is one of them: there is nothing in it to guess.
        words[np.isin(ids, special)] = _SPECIAL
        yield _Text(np.asarray(ids, dtype=np.int32), words)


def _blocks(
    tokenizer: PreTrainedTokenizerBase, texts: Iterator[_Text], *, size: int
) -> Iterator[_Text]:
    """Yield texts joined, with a separator after each, and cut; the last block may be short."""
    separators = (tokenizer.sep_token_id, tokenizer.eos_token_id)
    between = np.array([token for token in separators if token is not None][:1], dtype=np.int32)
    ids: list[Array] = []
    words: list[Array] = []
    num_words = 0
    for text in texts:
        ids += [text.ids, between]
        words.append(np.where(text.words == _SPECIAL, _SPECIAL, text.words + num_words))
        words.append(np.full(len(between), _SPECIAL))
        num_words += int(text.words.max(initial=-1)) + 1
    all_ids, all_words = np.concatenate(ids), np.concatenate(words)
    for start in range(0, len(all_ids), size):
        yield _Text(all_ids[start : start + size], all_words[start : start + size])


@dataclass(frozen=True, slots=True)
class Masking:
    """Draws what is to be guessed of a row: each token or word with a probability, at least one.

    Of the chosen tokens 80 % become the mask, 10 % a random one, 10 % stay (Devlin et al. 2019).
    """

    probability: float
    whole_word: bool
    mask_token_id: int
    replacements: Array  # ids of tokens that are not special

    def __call__(self, row: TokenRow, chance: np.random.Generator) -> TokenRow:
        ids, units = row["input_ids"], self.units(row["words"])
        choices = np.unique(units[units != _SPECIAL])
        is_chosen = chance.random(len(choices)) < self.probability
        if not is_chosen.any():
            is_chosen[chance.integers(len(choices))] = True
        is_target = np.isin(units, choices[is_chosen])
        fate = chance.random(len(ids))
        random_ids = chance.choice(self.replacements, size=len(ids))
        shown = np.where(fate < 0.8, self.mask_token_id, np.where(fate < 0.9, random_ids, ids))
        return {
            "input_ids": np.where(is_target, shown, ids),
            "labels": np.where(is_target, ids, -100),
        }

    def units(self, words: Array) -> Array:
        """Return the number of what is masked together at each token."""
        if self.whole_word:
            return words
        return np.where(words == _SPECIAL, _SPECIAL, np.arange(len(words)))

    def expected_targets(self, words: Array) -> float:
        """Return the mean number of targets of a row over all draws."""
        units = self.units(words)
        num_tokens = int((units != _SPECIAL).sum())
        num_units = len(np.unique(units[units != _SPECIAL]))
        share_without = (1 - self.probability) ** num_units  # one unit is chosen after all
        return num_tokens * (self.probability + share_without / num_units)


def masking(base: BaseModel, spec: MaskedLM) -> Masking:
    """Return what draws a row's targets."""
    tokenizer = base.tokenizer
    assert isinstance(tokenizer.mask_token_id, int), "checked before"
    special = set(tokenizer.all_special_ids)
    ordinary = sorted(set(tokenizer.get_vocab().values()) - special)
    return Masking(
        spec.mlm_probability, spec.whole_word, tokenizer.mask_token_id, np.array(ordinary)
    )


def load(base: BaseModel, spec: MaskedLM) -> LoadedModel:
    """Return the model; a head that its files do not have begins anew."""
    loaded = load_model(
        base, AutoModelForMaskedLM, changes={}, seed=spec.training.seed, is_head_new=True
    )
    return LoadedModel(loaded.model, _own_modules(loaded))


def _own_modules(loaded: LoadedModel) -> tuple[str, ...]:
    """Return the outermost modules of a new head that share no weight with the embeddings.

    An adapter saves a copy of the new parts, which the embeddings could not be tied to.
    """
    model: Any = loaded.model
    embeddings = {id(weight) for weight in model.get_input_embeddings().parameters()}
    found: list[str] = []
    for name, module in model.named_modules():
        is_new = any(name == new or name.startswith(f"{new}.") for new in loaded.new_modules)
        weights = {id(weight) for weight in module.parameters(recurse=True)}
        if not is_new or not weights or not weights.isdisjoint(embeddings):
            continue
        if not any(name.startswith(f"{outer}.") for outer in found):
            found.append(name)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class MaskedCollator:
    """Pads the rows of a batch to its longest."""

    pad_token_id: int

    def __call__(self, rows: Sequence[TokenRow]) -> dict[str, torch.Tensor]:
        ids = [row["input_ids"] for row in rows]
        return {
            "input_ids": pad_rows(ids, value=self.pad_token_id),
            "attention_mask": attention_mask(ids),
            "labels": pad_rows([row["labels"] for row in rows], value=-100),
        }


def build(setup: Setup) -> Recipe:
    """Return the recipe of masked language modelling."""
    spec = setup.spec
    assert isinstance(spec, MaskedLM), f"a spec of another task: {spec.task}"
    check_can_mask(setup.base, spec)
    loaded = load(setup.base, spec)
    if loaded.new_modules:
        message = "the model's files have no head for guessing tokens; it begins anew."
        setup.reporter.report(Warned("head_new", message, "Train for longer than usual."))
    setup.enter(Phase.TOKENIZING)
    draw = masking(setup.base, spec)
    tokenized = tokenize_rows(setup, spec, draw)
    _tell(setup, spec, tokenized)
    train = tokenized["train"]
    pad = setup.base.tokenizer.pad_token_id
    assert isinstance(pad, int), "checked before"
    loss = make_language_loss(setup, loaded.model, targets=own_labels)
    return Recipe(
        model=loaded.model,
        tokenizer=setup.base.tokenizer,
        rows={split: tokens.rows for split, tokens in tokenized.items()},
        collate=MaskedCollator(pad),
        forward_loss=loss,
        count_targets=count_labels,
        targets_per_row=train.counts["targets_e6"] / _MILLION / len(train.rows),
        predict=loss.sums_of_rows,
        measure=token_metrics,
        predictions=token_predictions,
        adapter_task="FEATURE_EXTRACTION",  # peft has no name of its own for this one
        new_modules=loaded.new_modules,
        num_truncated={split: t.counts["truncated"] for split, t in tokenized.items()},
        classes=(),
        pipeline="fill-mask",
        usage=_USAGE,
        draw=draw,
    )


def _tell(setup: Setup, spec: MaskedLM, tokenized: dict[str, Tokenized]) -> None:
    """Report what is left out; raise if too little is left."""
    tell_left_out(
        setup,
        tokenized,
        why="the tokenizer knows none of their words",
        hint="Use a model for texts like these.",
        param="/model",
        what="blocks" if spec.pack else "rows",
    )
    if spec.pack:
        check_blocks(tokenized["train"], size=spec.max_length, param="/pack")


_USAGE = """\
from transformers import pipeline

fill = pipeline("fill-mask", model="{folder}")
print(fill(f"A {fill.tokenizer.mask_token} to guess"))
"""
