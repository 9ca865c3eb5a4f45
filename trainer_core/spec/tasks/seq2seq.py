"""Summarization and translation, from text to text: what a job says, and its rows."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from trainer_core.errors import FieldProblem
from trainer_core.spec.base import Auto, ColumnName, Name, SpecModel, Text
from trainer_core.spec.parts import DataSpec
from trainer_core.spec.tasks.common import (
    Better,
    Columns,
    MaxLength,
    NonEmpty,
    Row,
    TaskSpec,
    is_given,
    unused_field,
)


class Seq2SeqColumns(Columns):
    """Roles of summarization and translation."""

    source: ColumnName = "source"
    """The text to read. Default `source`."""
    target: ColumnName = "target"
    """The text to write. Default `target`."""


class Seq2SeqData(DataSpec):
    """Rows of summarization and translation."""

    columns: Seq2SeqColumns = Seq2SeqColumns()
    """Which column plays which role."""


class Seq2SeqRow(Row):
    source: NonEmpty
    target: NonEmpty


class GenerationSpec(SpecModel):
    """How the model writes, when it is measured and afterwards: the model is saved with these.

    They replace the base model's own, such as a least length, which were made for other texts.
    """

    max_new_tokens: Annotated[int, Field(ge=1, le=1_048_576)] | Auto = "auto"
    """Most tokens that it writes, 1 or more. `auto`: as many as `max_target_length`."""
    num_beams: Annotated[int, Field(ge=1, le=64)] = 1
    """Beams of beam search, 1 to 64. Default 1, greedy: a measurement takes about as many times
    as long as there are beams."""
    length_penalty: Annotated[float, Field(ge=-10, le=10)] = 1.0
    """Exponent of the length by which a beam's score is divided; more favours longer texts.
    Default 1."""
    no_repeat_ngram_size: Annotated[int, Field(ge=0, le=64)] = 0
    """Never write the same sequence of so many tokens twice; 0 for no such rule. Default 0."""


class Seq2SeqSpec(TaskSpec):
    """What the two tasks share; each adds its name and its metrics."""

    max_length_tokens = 1024
    has_token_logits = True
    is_generating = True

    data: Seq2SeqData
    max_target_length: MaxLength = "auto"
    """Tokens kept of a target, 8 or more. `auto`: 128, or what the model can take."""
    source_prefix: Annotated[Text, StringConstraints(max_length=1000)] | None = None
    """Text put before each source, such as `summarize: ` for T5; it must be put there as well
    when the model is used. Default null."""
    source_language: Name | None = None
    """Code of the sources' language, as the model's tokenizer names it, such as `en_XX` (mBART),
    `eng_Latn` (NLLB) or `en` (M2M100). For models that were made for several languages only."""
    target_language: Name | None = None
    """Code of the targets' language, in the same way."""
    generation: GenerationSpec = GenerationSpec()
    """How the model writes."""

    @property
    def columns(self) -> Seq2SeqColumns:
        return self.data.columns

    @property
    def num_row_tokens(self) -> int:
        return super().num_row_tokens + self.num_scored_tokens

    @property
    def num_scored_tokens(self) -> int:
        assert self.max_target_length != "auto", "max_target_length is chosen before"
        return self.max_target_length

    def row_type(self) -> type[Row]:
        return Seq2SeqRow

    def unused(self) -> Iterator[FieldProblem]:
        if is_given(self.generation, "length_penalty") and self.generation.num_beams == 1:
            yield unused_field(
                "/generation/length_penalty",
                "it chooses between beams, and there is one",
                "Set generation.num_beams to 2 or more, or leave it out.",
            )


class Summarization(Seq2SeqSpec):
    """Teach an encoder-decoder to summarize texts."""

    summary = "Teach an encoder-decoder to summarize texts."
    example: ClassVar[dict[str, Any]] = {
        "task": "summarization",
        "model": "hub:google-t5/t5-small",
        "data": {
            "train": "dataset:ds_0123456789ab",
            "columns": {"source": "article", "target": "highlights"},
        },
        "source_prefix": "summarize: ",
        "training": {"epochs": 3, "learning_rate": 3e-4, "batch_size": 32},
    }

    task: Literal["summarization"] = "summarization"

    def metrics(self) -> dict[str, Better]:
        names = ("rouge_l", "rouge_1", "rouge_2", "rouge_lsum")
        return {**dict.fromkeys(names, "higher"), "loss": "lower"}


class Translation(Seq2SeqSpec):
    """Teach an encoder-decoder to translate texts, or to turn them into others."""

    summary = "Teach an encoder-decoder to translate texts, or to turn them into others."
    example: ClassVar[dict[str, Any]] = {
        "task": "translation",
        "model": "hub:facebook/nllb-200-distilled-600M",
        "data": {
            "train": "dataset:ds_0123456789ab",
            "columns": {"source": "english", "target": "french"},
        },
        "source_language": "eng_Latn",
        "target_language": "fra_Latn",
        "training": {"epochs": 3, "learning_rate": 3e-5, "batch_size": 32},
    }

    task: Literal["translation"] = "translation"

    def metrics(self) -> dict[str, Better]:
        return {"bleu": "higher", "chrf": "higher", "exact_match": "higher", "loss": "lower"}
