"""Causal language modelling: what a job says, and its rows."""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal, Self

from pydantic import model_validator

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
from trainer_core.spec.tasks.messages import AnsweredRow, MessagesRow


class CausalLMColumns(Columns):
    """Roles of causal language modelling: plain text, prompts with completions, or chats.

    With none of them given, the columns decide: `messages`, else `conversations` as messages, else
    `prompt` and `completion`, else `text`.
    """

    text: ColumnName | None = None
    """Plain text to continue."""
    prompt: ColumnName | None = None
    """What comes before a completion. Goes with `completion`."""
    completion: ColumnName | None = None
    """The text to learn after a prompt."""
    messages: ColumnName | None = None
    """A list of {role, content} messages, as of OpenAI's chat files, with `tool_calls` where tools
    are called. One of the assistant may have a `weight`: 1, or 0 to leave it out of what is
    learnt."""
    tools: ColumnName | None = None
    """The tools that the assistant may call: a list of OpenAI's function definitions, or that as
    JSON. Default `tools` if there are messages; a file may lack it."""

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        forms = [self.text, self.prompt or self.completion, self.messages]
        if sum(form is not None for form in forms) > 1:
            raise ValueError(
                "give columns.text, or columns.messages, or columns.prompt and columns.completion"
            )
        if (self.prompt is None) != (self.completion is None):
            raise ValueError("columns.prompt and columns.completion go together")
        if self.tools is not None and (self.text or self.prompt):
            raise ValueError("columns.tools goes with columns.messages")
        return self

    def fitted(self, available: Iterable[str]) -> Self:
        return self.model_copy(update=self._found(set(available)))

    def _found(self, available: set[str]) -> dict[str, str]:
        """Return the roles that are left open and their columns."""
        tools = {} if self.tools else {"tools": "tools"}
        if self.messages is not None:
            return tools
        if self.text is not None or self.prompt is not None:
            return {}
        for name in ("messages", "conversations"):
            if name in available:
                return {"messages": name, **tools}
        if self.tools is not None:
            return {"messages": "messages"}
        if {"prompt", "completion"} <= available:
            return {"prompt": "prompt", "completion": "completion"}
        return {"text": "text"}

    def may_be_absent(self, role: str) -> bool:
        return role == "tools" and self.tools == "tools"


class CausalLMData(DataSpec):
    """Rows of causal language modelling."""

    columns: CausalLMColumns = CausalLMColumns()
    """Which column plays which role."""


class TextRow(Row):
    text: NonEmpty


class CompletionRow(Row):
    """A prompt, and the text that is to follow it."""

    prompt: NonEmpty
    completion: NonEmpty


class CausalLM(TaskSpec):
    """Teach a language model to continue text, or to answer in a chat."""

    summary = "Teach a language model to continue text, or to answer in a chat."
    max_length_tokens = 2048
    has_token_logits = True
    has_chunked_loss = True
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
    """Learn the assistant's turns of a chat only, and of a prompt with a completion the completion;
    or every token, but never turns of weight 0. Default assistant. Plain text is learnt whole."""
    chat_template: Literal["model", "chatml"] | Auto = "auto"
    """How a chat becomes text. `auto`: the model's own template if it has one, else ChatML."""
    join_texts: bool = False
    """Join plain texts, with an end token after each, and cut them into blocks of `max_length`
    tokens, in place of one row a text: nothing is cut off long ones, such as books. Default false:
    texts don't see each other."""
    packing: bool | Auto = "auto"
    """Put several examples into one row of the batch, each seeing itself alone. It changes speed
    and memory only. `auto`: where flash attention computes such rows without waste."""

    @property
    def columns(self) -> CausalLMColumns:
        return self.data.columns

    def row_type(self) -> type[Row]:
        if self.data.columns.text is not None:
            return TextRow
        if self.data.columns.prompt is not None:
            return CompletionRow
        return AnsweredRow if self.loss_on == "assistant" else MessagesRow

    def metrics(self) -> dict[str, Better]:
        return {"loss": "lower", "perplexity": "lower", "token_accuracy": "higher"}

    def unused(self) -> Iterator[FieldProblem]:
        columns = self.data.columns
        if columns.text is not None and is_given(self, "loss_on"):
            yield unused_field("/loss_on", "plain text is learnt whole")
        if columns.text is None and self.join_texts:
            yield unused_field("/join_texts", "only plain texts are joined")
        if columns.messages is None and is_given(self, "chat_template"):
            yield unused_field("/chat_template", "the rows are no chats")
