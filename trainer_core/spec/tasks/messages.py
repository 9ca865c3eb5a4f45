"""Conversations as rows: messages, the tools that may be called, and the calls.

The forms are those of OpenAI's chat files; the `from` and `value` of ShareGPT's are read as well.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from trainer_core.spec.tasks.common import Row

_SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}


def _from_json(value: Any) -> Any:
    """Read JSON out of a string: a cell of a table can't hold a list or an object."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from error


def _none_as_empty(value: Any) -> Any:
    return () if value is None else value


def _text_of(content: Any) -> Any:
    """Join the parts of a content, all of which have to be text."""
    if content is None:
        return ""
    if not isinstance(content, Sequence) or isinstance(content, str):
        return content
    kinds = [part.get("type") if isinstance(part, Mapping) else None for part in content]
    if other := [kind for kind in kinds if kind != "text"]:
        raise ValueError(f"only parts of type 'text' can be learnt; one is of type {other[0]!r}")
    return "".join(str(part.get("text", "")) for part in content)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Function(_Part):
    """What a call names, and with which arguments."""

    name: Annotated[str, Field(min_length=1)]
    arguments: Annotated[dict[str, Any], BeforeValidator(_from_json)]


class ToolCall(_Part):
    """One call that the assistant asks for."""

    function: Function
    id: str | None = None
    type: Literal["function"] = "function"

    @model_validator(mode="before")
    @classmethod
    def _has_a_type(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("type", "") is None:
            return {**values, "type": "function"}
        return values


class Message(_Part):
    """One turn of a conversation."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str, BeforeValidator(_text_of)] = ""
    # Tables with a column for it have null where it was not given.
    weight: Annotated[
        Annotated[int, Field(ge=0, le=1)], BeforeValidator(lambda v: 1 if v is None else v)
    ] = 1
    tool_calls: Annotated[
        tuple[ToolCall, ...], BeforeValidator(_none_as_empty), BeforeValidator(_from_json)
    ] = ()
    tool_call_id: str | None = None
    name: str | None = None

    @property
    def is_learnt(self) -> bool:
        """Whether it is the assistant's and not to be left out."""
        return self.role == "assistant" and self.weight == 1

    @property
    def says_something(self) -> bool:
        """Whether there is a text or a call in it."""
        return bool(self.content.strip() or self.tool_calls)

    def for_template(self) -> dict[str, Any]:
        """Return the message as chat templates expect it: arguments are objects."""
        optional = {"tool_calls", "tool_call_id", "name"}
        filled = {name for name in optional if getattr(self, name)}
        return self.model_dump(mode="json", include={"role", "content", *filled}, exclude_none=True)

    @model_validator(mode="before")
    @classmethod
    def _read_other_forms(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        if "from" in values and "role" not in values:
            values = _from_sharegpt(values)
        if values.get("role") == "function":  # before there were tools
            values = {**values, "role": "tool"}
        if call := values.get("function_call"):
            values = {**values, "tool_calls": [{"function": _from_json(call)}]}
        if values.get("content") is None and not values.get("tool_calls"):
            raise ValueError("has no content")
        return values

    @model_validator(mode="after")
    def _only_the_assistant_is_weighed_and_calls(self) -> Self:
        if self.weight != 1 and self.role != "assistant":
            raise ValueError(f"'weight' is for messages of the assistant, not of the {self.role}")
        if self.tool_calls and self.role != "assistant":
            raise ValueError(f"'tool_calls' are the assistant's, not of the {self.role}")
        return self


def _from_sharegpt(values: Mapping[str, Any]) -> dict[str, Any]:
    role = _SHAREGPT_ROLES.get(str(values["from"]))
    if role is None:
        known = ", ".join(_SHAREGPT_ROLES)
        raise ValueError(f"'from' is {values['from']!r}; expected one of {known}")
    return {"role": role, "content": values.get("value"), "weight": values.get("weight")}


def _tool(value: Any) -> Any:
    """Return a tool in the outer form; the function alone is common, too."""
    if isinstance(value, Mapping) and "function" not in value and "name" in value:
        value = {"type": "function", "function": dict(value)}
    function = value.get("function") if isinstance(value, Mapping) else None
    is_named = isinstance(function, Mapping) and isinstance(function.get("name"), str)
    if not is_named:
        raise ValueError('expected {"type": "function", "function": {"name": ..., ...}}')
    return value


Tool = Annotated[dict[str, Any], BeforeValidator(_tool)]


class MessagesRow(Row):
    """A conversation, and the tools that the assistant may call in it."""

    refused_columns: ClassVar[dict[str, str]] = {
        "functions": "is the old form; put each function as {'type': 'function', 'function': ...} "
        "into a list in the column 'tools'",
    }

    messages: Annotated[tuple[Message, ...], Field(min_length=1), BeforeValidator(_from_json)]
    tools: Annotated[
        tuple[Tool, ...], BeforeValidator(_none_as_empty), BeforeValidator(_from_json)
    ] = ()


class AnsweredRow(MessagesRow):
    """A conversation of which the assistant's turns alone are learnt."""

    @model_validator(mode="after")
    def _has_something_to_learn(self) -> Self:
        if not any(turn.is_learnt and turn.says_something for turn in self.messages):
            raise ValueError(
                "no assistant message with content and a weight of 1, so there is nothing to learn"
            )
        return self
