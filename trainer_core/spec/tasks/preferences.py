"""What the preference tasks share: completions of a prompt, as text or as messages, and pairs."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from trainer_core.spec.base import Auto, ColumnName
from trainer_core.spec.parts import DataSpec
from trainer_core.spec.tasks.common import Better, Columns, NonEmpty, Row, TaskSpec
from trainer_core.spec.tasks.messages import Message


def _unweighed(turn: Message) -> Message:
    if turn.weight != 1:
        raise ValueError("'weight' is not used in preferences; leave it out")
    return turn


Turn = Annotated[Message, AfterValidator(_unweighed)]
Turns = tuple[Turn, ...]


def _kind(value: Any) -> str:
    return "text" if isinstance(value, str | int | float) else "messages"


def _unwrapped(value: Any) -> Any:
    """Take {"messages": [...]} for the list itself."""
    if isinstance(value, Mapping) and "messages" in value:
        if value.get("tools"):
            raise ValueError("the use of tools can't be learnt in this version")
        return value["messages"]
    if value is not None and not isinstance(value, str | int | float | Sequence):
        raise ValueError("should be text or a list of {role, content} messages")
    return value


Passage = Annotated[
    Annotated[NonEmpty, Tag("text")] | Annotated[Turns, Field(min_length=1), Tag("messages")],
    Discriminator(_kind),
    BeforeValidator(_unwrapped),
]
"""Text, or messages of a conversation."""


def alike(*passages: str | Turns, roles: Sequence[Literal["user", "assistant"]]) -> tuple[Any, ...]:
    """Return passages that are all text or all messages; a text becomes a message of its role."""
    if all(isinstance(passage, str) for passage in passages):
        return passages
    return tuple(
        (Message(role=role, content=passage),) if isinstance(passage, str) else passage
        for passage, role in zip(passages, roles, strict=True)
    )


def check_answers(completion: str | Turns, *, name: str) -> None:
    """Raise ValueError for a completion in which the assistant says nothing."""
    if not isinstance(completion, str) and not any(
        turn.is_learnt and turn.says_something for turn in completion
    ):
        raise ValueError(f"'{name}' has no assistant message with content")


class Pair(Row):
    """A prompt with the better and the worse completion.

    Without a prompt it is what both completions begin with.
    """

    prompt: Passage | None = None
    chosen: Passage
    rejected: Passage

    @property
    def parts(self) -> tuple[Any, Any, Any]:
        """Prompt, chosen and rejected: three strings, or three tuples of messages."""
        if self.prompt is not None:
            roles: tuple[Literal["user", "assistant"], ...] = ("user", "assistant", "assistant")
            prompt, chosen, rejected = alike(self.prompt, self.chosen, self.rejected, roles=roles)
            return prompt, chosen, rejected
        chosen, rejected = alike(self.chosen, self.rejected, roles=("assistant", "assistant"))
        same = takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False))
        shared = sum(1 for _ in same)
        return chosen[:shared], chosen[shared:], rejected[shared:]

    @model_validator(mode="after")
    def _differ_after_the_prompt(self) -> Self:
        prompt, chosen, rejected = self.parts
        if chosen == rejected:
            raise ValueError("'chosen' and 'rejected' are the same, so neither is the better one")
        if prompt == ():
            raise ValueError("'chosen' and 'rejected' begin with different messages; give a prompt")
        check_answers(chosen, name="chosen")
        check_answers(rejected, name="rejected")
        return self


_OPENAI_PAIR = {
    "prompt": "input",
    "chosen": "preferred_output",
    "rejected": "non_preferred_output",
}


class PairColumns(Columns):
    """Roles of preference pairs.

    Rows of OpenAI's files are read as they are: with none of these given, and no column `chosen`,
    they are `input`, `preferred_output` and `non_preferred_output`.
    """

    prompt: ColumnName | None = None
    """What comes before both completions: text, or a list of {role, content} messages. With none
    given: the column `prompt` if there is one, else what both completions begin with."""
    chosen: ColumnName = "chosen"
    """The better completion: text, which is joined to the prompt as it is, or messages. Default
    `chosen`."""
    rejected: ColumnName = "rejected"
    """The worse completion, like `chosen`. Default `rejected`."""

    def fitted(self, available: Iterable[str]) -> Self:
        columns = set(available)
        is_open = (self.prompt, self.chosen, self.rejected) == (None, "chosen", "rejected")
        if is_open and "chosen" not in columns and "preferred_output" in columns:
            return self.model_copy(update=_OPENAI_PAIR)
        if self.prompt is None and "prompt" in columns:
            return self.model_copy(update={"prompt": "prompt"})
        return self


class PairData(DataSpec):
    """Rows of preference pairs."""

    columns: PairColumns = PairColumns()
    """Which column plays which role."""


class PairSpec(TaskSpec):
    """What the tasks of preference pairs share; each adds its name and its loss."""

    max_length_tokens = 1024

    data: PairData
    chat_template: Literal["model", "chatml"] | Auto = "auto"
    """How messages become text. `auto`: the model's own template if it has one, else ChatML."""

    @property
    def columns(self) -> PairColumns:
        return self.data.columns

    @property
    def num_sequences(self) -> int:
        return 2

    def row_type(self) -> type[Row]:
        return Pair

    def metrics(self) -> dict[str, Better]:
        return {
            "reward_accuracy": "higher",
            "reward_margin": "higher",
            "chosen_reward": "higher",
            "rejected_reward": "lower",
            "loss": "lower",
        }
