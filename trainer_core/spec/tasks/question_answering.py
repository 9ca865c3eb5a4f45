"""Extractive question answering: what a job says, and its rows."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from trainer_core.errors import FieldProblem
from trainer_core.spec.base import ColumnName
from trainer_core.spec.parts import DataSpec
from trainer_core.spec.tasks.common import (
    Better,
    Columns,
    NonEmpty,
    Row,
    TaskSpec,
    from_cell,
    is_given,
    unused_field,
)


class QuestionAnsweringColumns(Columns):
    """Roles of question answering."""

    context: ColumnName = "context"
    """The text that has the answer. Default `context`."""
    question: ColumnName = "question"
    """The question. Default `question`."""
    answers: ColumnName = "answers"
    """The right answers, each with `text` and `answer_start`, the place of its first character in
    the context, from 0: one object, a list of them, or one object of two lists. The first one is
    learnt; the closest one counts in the metrics. Default `answers`."""


class QuestionAnsweringData(DataSpec):
    """Rows of question answering."""

    columns: QuestionAnsweringColumns = QuestionAnsweringColumns()
    """Which column plays which role."""


class Answer(Row):
    """A part of the context that answers the question."""

    text: NonEmpty
    answer_start: Annotated[int, Field(ge=0)]


def _listed(value: Any) -> Any:
    """Return the answers of any of their forms as a list."""
    match from_cell(value):
        case None | "":
            return []
        case {"text": list(texts), "answer_start": list(starts)}:
            if len(texts) != len(starts):
                raise ValueError(f"{len(texts)} text but {len(starts)} answer_start")
            pairs = zip(texts, starts, strict=True)
            return [{"text": text, "answer_start": start} for text, start in pairs]
        case dict(answer):
            return [answer]
        case str():
            raise ValueError("an answer is an object with text and answer_start")
        case answers:
            return answers


class QuestionRow(Row):
    """A question that may have no answer in its context."""

    context: NonEmpty
    question: NonEmpty
    answers: Annotated[tuple[Answer, ...], BeforeValidator(_listed)]

    @field_validator("answers")
    @classmethod
    def _stand_in_the_context(
        cls, answers: tuple[Answer, ...], info: ValidationInfo
    ) -> tuple[Answer, ...]:
        context = info.data.get("context")
        if context is not None:  # else that is the problem to tell
            for answer in answers:
                _check_place(answer, context)
        return answers


class AnsweredRow(QuestionRow):
    """A question with an answer."""

    @field_validator("answers")
    @classmethod
    def _has_one(cls, answers: tuple[Answer, ...]) -> tuple[Answer, ...]:
        if not answers:
            raise ValueError("there is no answer; set has_no_answers if questions may have none")
        return answers


def _check_place(answer: Answer, context: str) -> None:
    start, text = answer.answer_start, answer.text
    if context.startswith(text, start):
        return
    match context.count(text):
        case 0:
            place = "the context does not have it"
        case 1:
            place = f"it starts at {context.index(text)}"
        case number:
            place = f"the context has it {number} times, first at {context.index(text)}"
    found = context[start : start + len(text)]
    raise ValueError(
        f"the answer {_quoted(text)} is not at answer_start {start}, where the context has "
        f"{_quoted(found)}; {place}"
    )


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:39] + "…")


class QuestionAnswering(TaskSpec):
    """Find the answer to a question in a text, or that there is none."""

    summary = "Find the answer to a question in a text, or that there is none."
    why_not_smoothed = "the places of answers are not smoothed"
    example: ClassVar[dict[str, Any]] = {
        "task": "question-answering",
        "model": "hub:distilbert/distilbert-base-uncased",
        "data": {"train": "dataset:ds_0123456789ab"},
        "max_length": 384,
        "has_no_answers": True,
        "training": {"epochs": 2, "learning_rate": 3e-5, "batch_size": 16},
    }

    task: Literal["question-answering"] = "question-answering"
    data: QuestionAnsweringData
    doc_stride: Annotated[int, Field(ge=0, le=1_048_576)] = 128
    """Tokens that two neighbouring windows of a long context share, 0 or more. A context that does
    not fit into `max_length` is read in several windows, each of which is one example of a batch.
    Default 128: longer than nearly any answer, so that some window has it whole."""
    max_question_length: Annotated[int, Field(ge=1, le=65_536)] = 64
    """Tokens kept of a question, 1 or more. Default 64: the rest of `max_length` is the context's.
    """
    max_answer_length: Annotated[int, Field(ge=1, le=65_536)] = 30
    """Most tokens of an answer that is given, 1 or more. Default 30, the usual for SQuAD."""
    has_no_answers: bool = False
    """Whether a question may have no answer in its context, as in SQuAD 2: such rows are learnt,
    and the model may say so. Default false: a row without an answer is refused."""
    no_answer_threshold: Annotated[float, Field(ge=-1000, le=1000)] = 0.0
    """No answer is given where its score, the sum of two logits, exceeds that of the best answer by
    more than this. Default 0. Larger: more answers, and more wrong ones."""

    @model_validator(mode="after")
    def _windows_move_on(self) -> Self:
        taken = self.max_question_length + self.doc_stride
        if self.max_length != "auto" and taken >= self.max_length:
            raise ValueError(
                f"max_length ({self.max_length}) must be larger than max_question_length "
                f"({self.max_question_length}) and doc_stride ({self.doc_stride}) together"
            )
        return self

    @property
    def columns(self) -> QuestionAnsweringColumns:
        return self.data.columns

    def row_type(self) -> type[Row]:
        return QuestionRow if self.has_no_answers else AnsweredRow

    def metrics(self) -> dict[str, Better]:
        found: dict[str, Better] = {"f1": "higher", "exact_match": "higher"}
        if self.has_no_answers:
            found |= {"has_answer_f1": "higher", "no_answer_accuracy": "higher"}
        return found | {"loss": "lower"}

    def unused(self) -> Iterator[FieldProblem]:
        if is_given(self, "no_answer_threshold") and not self.has_no_answers:
            yield unused_field("/no_answer_threshold", "has_no_answers is false")
