"""One spec class a task, and the row that the task trains on.

The tasks themselves are in `trainer_core/training/tasks/`, one file each under the same name; a
test holds the two sets equal.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from trainer_core.spec.base import Auto, ColumnName, ShortText, SpecModel
from trainer_core.spec.parts import (
    AdapterSpec,
    CheckpointSpec,
    DataSpec,
    EvaluationSpec,
    Labels,
    OutputSpec,
    ResourcesSpec,
    Tracker,
    TrainingSpec,
)
from trainer_core.spec.references import ModelReference


def _spoken_boolean(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


NonEmpty = Annotated[str, StringConstraints(pattern=r"\S")]
Label = Annotated[
    str,
    BeforeValidator(_spoken_boolean),
    StringConstraints(strip_whitespace=True, min_length=1, max_length=256),
]
MaxLength = Annotated[int, Field(ge=8, le=1_048_576)] | Auto


class Row(BaseModel):
    """A row under its roles' names; a column that has no role is not part of it."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)


class Columns(SpecModel):
    """Which column of the file plays which role. A role whose value is null is not used."""

    def mapped(self) -> dict[str, str]:
        """Return role -> column of every role in use."""
        return {role: column for role, column in self if column is not None}

    def fitted(self, available: Iterable[str]) -> Self:  # noqa: ARG002 - subclasses look at it
        """Return these columns with what was left open decided by the columns that exist."""
        return self


class TaskSpec(SpecModel):
    """What a job of any task says."""

    example: ClassVar[dict[str, Any]]  # a whole spec that parses, for docs and clients
    summary: ClassVar[str]  # one sentence
    max_length_tokens: ClassVar[int] = 512  # what `max_length: auto` never exceeds

    version: Literal[1] = 1
    """Version of the spec's form. Stored specs parse for ever."""
    task: str
    """Which task."""
    name: ShortText | None = None
    """Name for people; need not be unique."""
    model: ModelReference
    """Base model: `hub:org/name[@revision]`, `model:NAME` or `job:ID`."""
    data: DataSpec
    """Rows."""
    max_length: MaxLength = "auto"
    """Tokens kept of a row, 8 or more. `auto`: what the model can take, up to the task's usual."""
    training: TrainingSpec = TrainingSpec()
    """Optimization."""
    evaluation: EvaluationSpec = EvaluationSpec()
    """Measuring."""
    checkpoints: CheckpointSpec = CheckpointSpec()
    """Saving on the way."""
    adapter: AdapterSpec | None = None
    """Train an adapter in place of all weights. Default null."""
    resources: ResourcesSpec = ResourcesSpec()
    """Devices and limits."""
    tracking: tuple[Tracker, ...] = ()
    """Experiment trackers to report to. Default none."""
    output: OutputSpec = OutputSpec()
    """Further places for the model."""
    labels: Annotated[Labels, Field(max_length=16, default_factory=dict)]
    """Up to 16 key-value pairs of your own, for filtering."""

    @property
    def columns(self) -> Columns:
        """The roles of the task and their columns."""
        raise NotImplementedError

    def row_type(self) -> type[Row]:
        """Return the type that a row must fit."""
        raise NotImplementedError

    def metrics(self) -> tuple[str, ...]:
        """Return the names of the evaluation metrics, the one that chooses the best model first."""
        raise NotImplementedError

    def classes_of(self, row: Row) -> tuple[str, ...]:  # noqa: ARG002 - tasks with classes look
        """Return the class labels that a row names; none for a task without classes."""
        return ()

    @model_validator(mode="after")
    def _metric_is_measured(self) -> Self:
        if self.evaluation.metric not in ("auto", *self.metrics()):
            raise ValueError(
                f"evaluation.metric '{self.evaluation.metric}' is not measured for this job; "
                f"choose one of {', '.join(self.metrics())} or 'auto'"
            )
        return self

    @model_validator(mode="after")
    def _evaluation_has_rows(self) -> Self:
        measured = self.data.eval is not None and self.evaluation.strategy != "no"
        if self.training.early_stopping and not measured:
            raise ValueError(
                "training.early_stopping needs evaluation: set data.eval and evaluation.strategy"
            )
        if self.checkpoints.strategy == "no" and self.training.early_stopping:
            raise ValueError("training.early_stopping needs checkpoints to go back to the best one")
        return self


class TextClassificationColumns(Columns):
    """Roles of text classification."""

    text: ColumnName = "text"
    """The text. Default `text`."""
    text_pair: ColumnName | None = None
    """A second text, for pairs. Default null."""
    label: ColumnName = "label"
    """The class, the list of classes, or the number. Default `label`."""


class TextClassificationData(DataSpec):
    """Rows of text classification."""

    columns: TextClassificationColumns = TextClassificationColumns()
    """Which column plays which role."""


class SingleLabelRow(Row):
    text: NonEmpty
    text_pair: NonEmpty | None = None
    label: Label


class MultiLabelRow(Row):
    text: NonEmpty
    text_pair: NonEmpty | None = None
    label: tuple[Label, ...]

    @model_validator(mode="before")
    @classmethod
    def _split_text(cls, values: Any) -> Any:
        """Take `a;b` for ["a", "b"]: a CSV cell can't hold a list."""
        label = values.get("label") if isinstance(values, Mapping) else None
        if isinstance(label, str):
            return {**values, "label": [part for part in label.split(";") if part.strip()]}
        return values


class RegressionRow(Row):
    text: NonEmpty
    text_pair: NonEmpty | None = None
    label: Annotated[float, Field(allow_inf_nan=False)]


_CLASSIFICATION_ROWS: dict[str, type[Row]] = {
    "single-label": SingleLabelRow,
    "multi-label": MultiLabelRow,
    "regression": RegressionRow,
}


class TextClassification(TaskSpec):
    """Sort texts, or pairs of texts, into classes, or score them with a number."""

    summary = "Sort texts, or pairs of texts, into classes, or score them with a number."
    example: ClassVar[dict[str, Any]] = {
        "task": "text-classification",
        "model": "hub:distilbert/distilbert-base-uncased",
        "data": {"train": "dataset:ds_0123456789ab", "columns": {"label": "intent"}},
        "training": {"epochs": 3, "learning_rate": 5e-5, "batch_size": 32},
    }

    task: Literal["text-classification"] = "text-classification"
    data: TextClassificationData
    problem: Literal["single-label", "multi-label", "regression"] = "single-label"
    """One class a row, any number of classes a row, or a number a row. Default single-label."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability from which a class counts as named; multi-label only. Default 0.5."""

    @property
    def columns(self) -> TextClassificationColumns:
        return self.data.columns

    def row_type(self) -> type[Row]:
        return _CLASSIFICATION_ROWS[self.problem]

    def metrics(self) -> tuple[str, ...]:
        match self.problem:
            case "single-label":
                return ("accuracy", "macro_f1", "loss")
            case "multi-label":
                return ("macro_f1", "micro_f1", "accuracy", "loss")
            case "regression":
                return ("mse", "pearson", "loss")

    def classes_of(self, row: Row) -> tuple[str, ...]:
        match row:
            case SingleLabelRow():
                return (row.label,)
            case MultiLabelRow():
                return row.label
            case _:
                return ()


class CausalLMColumns(Columns):
    """Roles of causal language modelling: plain text, or chat messages."""

    text: ColumnName | None = None
    """Plain text to continue. With neither given: the column `messages` if there is one, else
    `text`."""
    messages: ColumnName | None = None
    """A list of {role, content} messages."""

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


class MessagesRow(Row):
    messages: Annotated[tuple[Message, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _has_something_to_learn(self) -> Self:
        if not any(turn.role == "assistant" and turn.content.strip() for turn in self.messages):
            raise ValueError("no assistant message with content, so there is nothing to learn")
        return self


class CausalLM(TaskSpec):
    """Teach a language model to continue text, or to answer in a chat."""

    summary = "Teach a language model to continue text, or to answer in a chat."
    max_length_tokens = 2048
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
    """In a chat, learn the assistant's turns only, or every token. Default assistant. Plain text
    is learnt whole."""
    chat_template: Literal["model", "chatml"] | Auto = "auto"
    """How a chat becomes text. `auto`: the model's own template if it has one, else ChatML."""

    @property
    def columns(self) -> CausalLMColumns:
        return self.data.columns

    def row_type(self) -> type[Row]:
        return TextRow if self.data.columns.text is not None else MessagesRow

    def metrics(self) -> tuple[str, ...]:
        return ("loss", "perplexity", "token_accuracy")
