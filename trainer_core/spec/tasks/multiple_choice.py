"""Multiple choice: what a job says, and its rows."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, ValidationInfo, field_validator, model_validator

from trainer_core.spec.base import ColumnName
from trainer_core.spec.parts import DataSpec
from trainer_core.spec.tasks.common import Better, Columns, NonEmpty, Row, TaskSpec, from_cell

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # a row has at most as many choices


class MultipleChoiceColumns(Columns):
    """Roles of multiple choice."""

    context: ColumnName | None = None
    """A text that the question is about, or that the choices go on; it is cut where a row is too
    long. With neither it nor a question given: the columns `context` and `question`, as far as
    the first row has them. May be empty in some rows, but not both."""
    question: ColumnName | None = None
    """The question. It is never cut where there is a context."""
    choices: ColumnName = "choices"
    """A list of 2 to 26 texts, not the same number in every row. Default `choices`."""
    label: ColumnName = "label"
    """The right choice: its index from 0, its letter from A, or its text. Default `label`."""

    def fitted(self, available: Iterable[str]) -> Self:
        if self.context is not None or self.question is not None:
            return self
        there = [role for role in ("context", "question") if role in set(available)]
        return self.model_copy(update={role: role for role in there or ["question"]})


class MultipleChoiceData(DataSpec):
    """Rows of multiple choice."""

    columns: MultipleChoiceColumns = MultipleChoiceColumns()
    """Which column plays which role."""


_Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]


class MultipleChoiceRow(Row):
    context: _Text = ""
    question: _Text = ""
    choices: Annotated[tuple[NonEmpty, ...], BeforeValidator(from_cell)]
    label: int

    @field_validator("choices")
    @classmethod
    def _are_some(cls, choices: tuple[str, ...]) -> tuple[str, ...]:
        if not 2 <= len(choices) <= len(LETTERS):
            raise ValueError(f"there are {len(choices)}; 2 to {len(LETTERS)} were expected")
        return choices

    @field_validator("label", mode="before")
    @classmethod
    def _is_a_choice(cls, label: Any, info: ValidationInfo) -> Any:
        choices = info.data.get("choices")
        if choices is None or label is None:  # that is the problem to tell
            return label
        return _index(label, choices)

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if not self.context.strip() and not self.question.strip():
            raise ValueError("there is neither a context nor a question")
        return self


def _index(label: Any, choices: Sequence[str]) -> int:
    """Return which choice a label means."""
    meant = sorted({index for index in _meanings(label, choices) if 0 <= index < len(choices)})
    match meant:
        case [index]:
            return index
        case []:
            last = len(choices) - 1
            raise ValueError(
                f"it is none of the {len(choices)} choices: an index from 0 to {last}, a letter "
                f"from A to {LETTERS[last]} or the text of one was expected"
            )
        case _:
            letters = " or ".join(LETTERS[index] for index in meant)
            raise ValueError(f"it could mean choice {letters}; give the index as a number")


def _meanings(label: Any, choices: Sequence[str]) -> Iterator[int]:
    match label:
        case bool():
            pass
        case int() | float() if label == int(label):
            yield int(label)
        case str():
            text = label.strip()
            yield from (index for index, choice in enumerate(choices) if choice.strip() == text)
            if text.isascii() and text.isdecimal():
                yield int(text)
            if len(text) == 1 and text in LETTERS:
                yield LETTERS.index(text)


class MultipleChoice(TaskSpec):
    """Choose the right one of several texts, such as answers to a question."""

    summary = "Choose the right one of several texts, such as answers to a question."
    example: ClassVar[dict[str, Any]] = {
        "task": "multiple-choice",
        "model": "hub:google-bert/bert-base-uncased",
        "data": {"train": "dataset:ds_0123456789ab", "columns": {"question": "question"}},
        "training": {"epochs": 3, "learning_rate": 5e-5, "batch_size": 16},
    }

    task: Literal["multiple-choice"] = "multiple-choice"
    data: MultipleChoiceData

    @property
    def columns(self) -> MultipleChoiceColumns:
        return self.data.columns

    def row_type(self) -> type[Row]:
        return MultipleChoiceRow

    def metrics(self) -> dict[str, Better]:
        return {"accuracy": "higher", "loss": "lower"}
