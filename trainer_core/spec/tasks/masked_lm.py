"""Masked language modelling: what a job says, and its rows."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from trainer_core.spec.base import ColumnName
from trainer_core.spec.parts import DataSpec
from trainer_core.spec.tasks.common import Better, Columns, NonEmpty, Row, TaskSpec


class MaskedLMColumns(Columns):
    """Roles of masked language modelling."""

    text: ColumnName = "text"
    """The text. Default `text`."""


class MaskedLMData(DataSpec):
    """Rows of masked language modelling."""

    columns: MaskedLMColumns = MaskedLMColumns()
    """Which column plays which role."""


class MaskedTextRow(Row):
    text: NonEmpty


class MaskedLM(TaskSpec):
    """Adapt an encoder to the texts of a field: it learns to fill in masked tokens."""

    summary = "Adapt an encoder to the texts of a field: it learns to fill in masked tokens."
    has_token_logits = True
    has_chunked_loss = True
    example: ClassVar[dict[str, Any]] = {
        "task": "masked-lm",
        "model": "hub:distilbert/distilroberta-base",
        "data": {"train": "dataset:ds_0123456789ab"},
        "whole_word": True,
        "training": {"epochs": 3, "batch_size": 32},
    }

    task: Literal["masked-lm"] = "masked-lm"
    data: MaskedLMData
    mlm_probability: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the tokens, or of the words, to be guessed, in (0, 1); at least one of each row.
    Default 0.15 (Devlin et al. 2019). Of these 80 % are masked, 10 % replaced by a random token and
    10 % left as they are."""
    whole_word: bool = False
    """Mask all tokens of a word together: harder to guess, so more is learnt. Default false."""
    pack: bool = False
    """Join texts and cut them into blocks of `max_length` tokens, in place of one row a text: no
    padding for short texts, nothing cut off long ones. Default false: unlike texts don't mix."""

    @property
    def columns(self) -> MaskedLMColumns:
        return self.data.columns

    def row_type(self) -> type[Row]:
        return MaskedTextRow

    def metrics(self) -> dict[str, Better]:
        return {"loss": "lower", "perplexity": "lower", "token_accuracy": "higher"}
