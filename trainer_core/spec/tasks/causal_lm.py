"""Causal language modelling: what a job says, and its rows."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from trainer_core.errors import FieldProblem
from trainer_core.spec.base import Auto, ColumnName
from trainer_core.spec.parts import DataSpec
from trainer_core.spec.tasks.common import (
    Better,
    Columns,
    NonEmpty,
    Row,
    TaskSpec,
    is_given,
    unused_field,
)


class CausalLMColumns(Columns):
    """Roles of causal language modelling: plain text, or chat messages."""

    text: ColumnName | None = None
    """Plain text to continue. With neither given: the column `messages` if there is one, else
    `text`."""
    messages: ColumnName | None = None
    """A list of {role, content} messages. One of the assistant may have a `weight`: 1, or 0 to
    leave it out of what is learnt."""

    @model_validator(mode="after")
    def _one_role(self) -> Self:
        if self.text is not None and self.messages is not None:
            raise ValueError("give columns.text or columns.messages, not both")
        return self

    def fitted(self, available: Iterable[str]) -> Self:
        if self.text is not None or self.messages is not None:
            return self
        role = "messages" if "messages" in set(available) else "text"
        return self.model_copy(update={role: role})


class CausalLMData(DataSpec):
    """Rows of causal language modelling."""

    columns: CausalLMColumns = CausalLMColumns()
    """Which column plays which role."""


class TextRow(Row):
    text: NonEmpty


class Message(Row):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str
    # Tables with a column for it have null where it was not given.
    weight: Annotated[
        Annotated[int, Field(ge=0, le=1)], BeforeValidator(lambda v: 1 if v is None else v)
    ] = 1

    @property
    def is_learnt(self) -> bool:
        """Whether it is the assistant's and not to be left out."""
        return self.role == "assistant" and self.weight == 1

    @model_validator(mode="before")
    @classmethod
    def _calls_no_tools(cls, values: Any) -> Any:
        for name in ("tool_calls", "function_call"):
            if isinstance(values, Mapping) and values.get(name):
                raise ValueError(f"'{name}' can't be learnt in this version")
        return values

    @model_validator(mode="after")
    def _only_the_assistant_is_weighed(self) -> Self:
        if self.weight != 1 and self.role != "assistant":
            raise ValueError(f"'weight' is for messages of the assistant, not of the {self.role}")
        return self


class MessagesRow(Row):
    refused_columns: ClassVar[dict[str, str]] = {
        "tools": "the use of tools can't be learnt in this version",
    }

    messages: Annotated[tuple[Message, ...], Field(min_length=1)]


class AnsweredRow(MessagesRow):
    """A conversation of which the assistant's turns alone are learnt."""

    @model_validator(mode="after")
    def _has_something_to_learn(self) -> Self:
        if not any(turn.is_learnt and turn.content.strip() for turn in self.messages):
            raise ValueError(
                "no assistant message with content and a weight of 1, so there is nothing to learn"
            )
        return self


class CausalLM(TaskSpec):
    """Teach a language model to continue text, or to answer in a chat."""

    summary = "Teach a language model to continue text, or to answer in a chat."
    max_length_tokens = 2048
    has_token_logits = True
    example: ClassVar[dict[str, Any]] = {
        "task": "causal-lm",
        "model": "hub:HuggingFaceTB/SmolLM2-135M-Instruct",
        "data": {"train": "dataset:ds_0123456789ab", "columns": {"messages": "messages"}},
        "training": {"epochs": 2, "batch_size": 16},
        "adapter": {"type": "lora", "r": 16},
    }

    task: Literal["causal-lm"] = "causal-lm"
    data: CausalLMData
    loss_on: Literal["assistant", "all"] = "assistant"
    """In a chat, learn the assistant's turns only, or every token; turns of weight 0 never.
    Default assistant. Plain text is learnt whole."""
    chat_template: Literal["model", "chatml"] | Auto = "auto"
    """How a chat becomes text. `auto`: the model's own template if it has one, else ChatML."""

    @property
    def columns(self) -> CausalLMColumns:
        return self.data.columns

    def row_type(self) -> type[Row]:
        if self.data.columns.text is not None:
            return TextRow
        return AnsweredRow if self.loss_on == "assistant" else MessagesRow

    def metrics(self) -> dict[str, Better]:
        return {"loss": "lower", "perplexity": "lower", "token_accuracy": "higher"}

    def unused(self) -> Iterator[FieldProblem]:
        if self.data.columns.text is not None:
            for name in ("loss_on", "chat_template"):
                if is_given(self, name):
                    yield unused_field(f"/{name}", "the rows are plain text, not chats")
