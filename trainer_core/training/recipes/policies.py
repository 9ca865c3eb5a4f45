"""A language model that learns from preferences, and what its recipes have in common."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from trainer_core.rows.checking import all_rows
from trainer_core.training.data.tokens import TokenizedRows
from trainer_core.training.models.base_model import LoadedModel
from trainer_core.training.recipes.completions import (
    Encode,
    SequencesCollator,
    encode_completions,
    score,
    without_dropout,
)
from trainer_core.training.recipes.decoders import load_decoder, usage
from trainer_core.training.recipes.recipe import (
    Batch,
    ForwardLoss,
    Measured,
    Recipe,
    Setup,
    count_rows,
)
from trainer_core.training.recipes.reference import with_reference
from trainer_core.training.recipes.tokenizing import Tokenized, tell_left_out, tell_lost_turns


@dataclass(frozen=True, slots=True)
class Policy:
    """The model to train, without dropout, and how its rows are written."""

    setup: Setup
    loaded: LoadedModel
    chat_template: str | None  # None where no row is messages

    @property
    def pad_token_id(self) -> int:
        """The token that fills rows up."""
        found = self.setup.base.tokenizer.pad_token_id
        assert isinstance(found, int), "set with the model"
        return found

    @property
    def encode(self) -> Encode:
        """What makes tokens of prompts and completions."""
        base, max_length = self.setup.base, self.setup.spec.max_length
        assert max_length != "auto", "the spec is resolved before"
        return partial(encode_completions, tokenizer=base.tokenizer, max_length=max_length)

    def with_reference(self, tokenized: Mapping[str, Tokenized]) -> dict[str, TokenizedRows]:
        """Return the rows with what the model says of them before any training."""
        collate, model = SequencesCollator(self.pad_token_id), self.loaded.model
        return {
            split: with_reference(self.setup, t.rows, model=model, collate=collate, score=score)
            for split, t in tokenized.items()
        }

    def recipe(
        self,
        tokenized: Mapping[str, Tokenized],
        *,
        rows: Mapping[str, TokenizedRows],
        columns: tuple[str, ...],
        forward_loss: ForwardLoss,
        measure: Callable[[Measured], dict[str, float]],
        predictions: Callable[[Measured], Iterable[Mapping[str, Any]]],
        trainer_class: type[Any] | None = None,
    ) -> Recipe:
        """Return the recipe of a loss of completions that has one target a row.

        Args:
            tokenized: says what happened to the rows on the way.
            rows: to train and to measure on.
            columns: of them that the loss takes beside the sequences.
            forward_loss: whose output is what is kept of each row.
            measure: from these to the figures.
            predictions: from these to what is told of each row.
            trainer_class: with a loss of its own.
        """
        return Recipe(
            model=self.loaded.model,
            tokenizer=self.setup.base.tokenizer,
            rows=rows,
            collate=SequencesCollator(self.pad_token_id, others=columns),
            forward_loss=forward_loss,
            count_targets=count_rows,
            targets_per_row=1.0,
            predict=output_itself,
            measure=measure,
            predictions=predictions,
            adapter_task="CAUSAL_LM",
            new_modules=self.loaded.new_modules,
            num_truncated={split: t.counts["truncated"] for split, t in tokenized.items()},
            classes=(),
            pipeline="text-generation",
            usage=usage(is_chat=self.chat_template is not None),
            trainer_class=trainer_class,
        )


def load_policy(setup: Setup, *, chat_template: str) -> Policy:
    """Return the model to train.

    Args:
        setup: whose model and rows.
        chat_template: `model` or `chatml`, for rows that are messages.
    """
    template = template_in_use(setup, chat_template)
    loaded = load_decoder(setup, chat_template=template)
    without_dropout(loaded.model)
    return Policy(setup, loaded, template)


def template_in_use(setup: Setup, chat_template: str) -> str | None:
    """Return the choice of a chat template, or None if no row of any split is messages.

    The rows are read up to the first that is: texts and messages may be mixed.
    """
    rows: Iterable[tuple[str, Any]] = all_rows(setup.found, setup.files)
    has_chats = any(not isinstance(row.parts[0], str) for _, row in rows)
    return chat_template if has_chats else None


def tell_what_is_lost(setup: Setup, tokenized: Mapping[str, Tokenized]) -> None:
    """Report rows and turns that are not learnt; raise if none of a split is."""
    tell_left_out(
        setup,
        tokenized,
        why=f"in their first {setup.spec.max_length} tokens there is no completion to learn from",
        hint="Raise max_length, or shorten the prompts.",
        param="/max_length",
    )
    tell_lost_turns(setup, tokenized)


def output_itself(_model: Any, _batch: Batch, output: torch.Tensor) -> torch.Tensor:
    """Return what the loss found of each row on its way."""
    return output
