"""Trying a finished model: what it is asked, by task, and what goes to its process and back.

The process is given one connection. A line of JSON each way:

    -> {"folder": ..., "spec": ..., "device": ..., "inputs": [...], "settings": {...}}
    <- {"text": ...}                        a piece of what is being written, if it was asked for
    <- {"outputs": [...], "num_input_tokens": N, "num_output_tokens": N}     the end
    <- {"error": {...}}                     or this
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError, model_validator

from trainer_core.errors import FieldProblem, InvalidSpec
from trainer_core.spec.base import SpecModel, Text
from trainer_core.spec.parsing import field_problems
from trainer_core.spec.tasks.messages import Message

MAX_INPUTS = 32
MAX_NEW_TOKENS = 1024
MAX_SECONDS = 120  # from asking to the last answer

Passage = Annotated[Text, StringConstraints(min_length=1, max_length=200_000)]


class TextInput(SpecModel):
    """A text. A string alone means the same."""

    text: Passage


class PairInput(TextInput):
    """A text, and the second one of a pair."""

    text_pair: Passage | None = None


class QuestionInput(SpecModel):
    """A question, and the text that may answer it."""

    question: Passage
    context: Passage


class ChoiceInput(SpecModel):
    """A question, its answers, and the text that it is about."""

    question: Passage
    choices: Annotated[tuple[Passage, ...], Field(min_length=2, max_length=32)]
    context: Passage | None = None


class PromptInput(SpecModel):
    """A text to go on with, or a conversation to answer. A string alone is such a text."""

    prompt: Passage | None = None
    messages: Annotated[tuple[Message, ...], Field(min_length=1, max_length=1000)] | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give prompt or messages, one of the two")
        return self


class JudgedInput(SpecModel):
    """A text, or a conversation, to judge."""

    text: Passage | None = None
    messages: Annotated[tuple[Message, ...], Field(min_length=1, max_length=1000)] | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.text is None) == (self.messages is None):
            raise ValueError("give text or messages, one of the two")
        return self


INPUTS: dict[str, type[SpecModel]] = {
    "text-classification": PairInput,
    "token-classification": TextInput,
    "question-answering": QuestionInput,
    "multiple-choice": ChoiceInput,
    "summarization": TextInput,
    "translation": TextInput,
    "causal-lm": PromptInput,
    "masked-lm": TextInput,
    "sentence-embedding": TextInput,
    "dpo": PromptInput,
    "kto": PromptInput,
    "orpo": PromptInput,
    "reward-model": JudgedInput,
}
"""What a model of each task is asked."""

WRITERS = frozenset(task for task, kind in INPUTS.items() if kind is PromptInput)
"""Tasks whose models go on with a text."""


class PredictionSettings(SpecModel):
    """How to write; models that only judge have no use for it."""

    max_new_tokens: Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS)] = 128
    """Most tokens written for an input."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """0 writes the likeliest token each time; above it tokens are drawn. Default 0."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Draw among the likeliest tokens that have this share together. Default 1: all."""
    stop: Annotated[
        tuple[Annotated[Text, StringConstraints(min_length=1, max_length=100)], ...],
        Field(max_length=4),
    ] = ()
    """End before the first of these."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    """Of what is drawn. Default null: another each time."""
    prompt: Literal["query", "document"] | None = None
    """Which prompt of an embedding model to put before a text, where it has some."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a model's process is asked."""

    folder: str
    spec: Mapping[str, Any]
    device: str
    inputs: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]
    is_streamed: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return asdict(self)


def parse_inputs(task: str, values: Sequence[Any]) -> list[dict[str, Any]]:
    """Return what a model of a task is asked, JSON-ready, or raise InvalidSpec by place."""
    if not 1 <= len(values) <= MAX_INPUTS:
        message = f"should be 1 to {MAX_INPUTS} inputs; got {len(values)}"
        raise InvalidSpec([FieldProblem("/inputs", message)])
    kind = INPUTS[task]
    found, problems = [], []
    for place, value in enumerate(values):
        given = {next(iter(kind.model_fields)): value} if isinstance(value, str) else value
        try:
            found.append(TypeAdapter(kind).validate_python(given))
        except ValidationError as error:
            known = given if isinstance(given, Mapping) else {}
            problems += [
                FieldProblem(f"/inputs/{place}{one.pointer}", one.message, one.hint)
                for one in field_problems(error, known, kind)
            ]
    if problems:
        raise InvalidSpec(problems)
    return [one.model_dump(mode="json", exclude_none=True) for one in found]
