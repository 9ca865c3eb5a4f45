"""Token classification: what a job says, and its rows."""

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from trainer_core.spec.base import ColumnName
from trainer_core.spec.parts import DataSpec
from trainer_core.spec.tasks.common import Better, Columns, Label, NonEmpty, Row, TaskSpec

OUTSIDE = "O"  # the tag of what is in no entity


class TokenClassificationColumns(Columns):
    """Roles of token classification: words and their tags, or a text and the spans in it.

    With none given: `text` and `spans` if there is a column `spans`, else `tokens` and `tags`, as
    CoNLL files have.
    """

    tokens: ColumnName | None = None
    """The words, as a list."""
    tags: ColumnName | None = None
    """The tag of each word, as a list: BIO, BIOES or plain class names."""
    text: ColumnName | None = None
    """A text."""
    spans: ColumnName | None = None
    """A list of {start, end, label}, in characters of the text; the end is the first one after."""

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self._has_words and self._has_spans:
            raise ValueError("give columns.tokens and tags, or columns.text and spans, not both")
        return self

    @property
    def _has_words(self) -> bool:
        return self.tokens is not None or self.tags is not None

    @property
    def _has_spans(self) -> bool:
        return self.text is not None or self.spans is not None

    def fitted(self, available: Iterable[str]) -> Self:
        is_spans = self._has_spans or (not self._has_words and "spans" in set(available))
        roles = ("text", "spans") if is_spans else ("tokens", "tags")
        return self.model_copy(update={role: getattr(self, role) or role for role in roles})


class TokenClassificationData(DataSpec):
    """Rows of token classification."""

    columns: TokenClassificationColumns = TokenClassificationColumns()
    """Which column plays which role."""


def _list_of(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError("must be a list, which tables can't hold; use JSONL, Parquet or CoNLL")  # noqa: TRY004
    return value


class TaggedRow(Row):
    tokens: Annotated[tuple[str, ...], Field(min_length=1)]
    tags: tuple[Label, ...]

    _lists = field_validator("tokens", "tags", mode="before")(_list_of)

    @field_validator("tags")
    @classmethod
    def _has_a_tag_a_word(cls, tags: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        num_tokens = len(info.data.get("tokens", tags))
        if len(tags) != num_tokens:
            raise ValueError(f"there are {len(tags)} tags for {num_tokens} tokens")
        return tags


class Span(Row):
    """A part of a text that is of a class."""

    start: Annotated[int, Field(ge=0)]
    end: int
    label: Label


class SpansRow(Row):
    text: NonEmpty
    spans: tuple[Span, ...]

    _lists = field_validator("spans", mode="before")(_list_of)

    @field_validator("spans")
    @classmethod
    def _are_of_text(cls, spans: tuple[Span, ...], info: ValidationInfo) -> tuple[Span, ...]:
        """Return the spans in the order of the text."""
        lined_up = sorted(spans, key=lambda span: (span.start, span.end))
        for before, span in zip([None, *lined_up], lined_up, strict=False):
            if flaw := _flaw_of(span, info.data.get("text", ""), before=before):
                name = f"the span '{span.label}' from {span.start} to {span.end}"
                raise ValueError(f"{name} {flaw}")
        return tuple(lined_up)


def _flaw_of(span: Span, text: str, *, before: Span | None) -> str | None:
    """Return what is wrong with a span, given the one that starts before it."""
    if span.end <= span.start:
        return "is empty"
    if span.end > len(text):
        return f"ends after the text, which has {len(text)} characters"
    inside = text[span.start : span.end]
    if inside != inside.strip():
        return f"starts or ends with white space: {inside!r}"[:200]
    if before and span.start < before.end:
        return f"overlaps '{before.label}' from {before.start} to {before.end}"
    return None


class TokenClassification(TaskSpec):
    """Find names and other parts of texts, or say of each word what it is."""

    summary = "Find names and other parts of texts, or say of each word what it is."
    example: ClassVar[dict[str, Any]] = {
        "task": "token-classification",
        "model": "hub:distilbert/distilbert-base-cased",
        "data": {
            "train": "dataset:ds_0123456789ab",
            "columns": {"tokens": "tokens", "tags": "ner_tags"},
        },
        "training": {"epochs": 3, "learning_rate": 5e-5, "batch_size": 32},
    }

    task: Literal["token-classification"] = "token-classification"
    data: TokenClassificationData

    @property
    def columns(self) -> TokenClassificationColumns:
        return self.data.columns

    @property
    def label_column(self) -> str | None:
        return self.data.columns.tags or self.data.columns.spans

    def row_type(self) -> type[Row]:
        return SpansRow if self.data.columns.spans else TaggedRow

    def metrics(self) -> dict[str, Better]:
        return {
            "f1": "higher",
            "precision": "higher",
            "recall": "higher",
            "accuracy": "higher",
            "loss": "lower",
        }

    def classes_of(self, row: Row) -> tuple[str, ...]:
        match row:
            case TaggedRow():
                return tuple(dict.fromkeys(row.tags))
            case SpansRow():
                labels = dict.fromkeys(span.label for span in row.spans)
                inside = [f"{prefix}-{label}" for label in labels for prefix in ("B", "I")]
                return (OUTSIDE, *inside)
            case _:
                return ()
