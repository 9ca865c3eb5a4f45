"""What the spec classes of all tasks share: the spec's own fields, rows and columns."""

import json
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from trainer_core.errors import FieldProblem
from trainer_core.spec.base import Auto, ShortText, SpecModel
from trainer_core.spec.parts import (
    AdapterSpec,
    CheckpointSpec,
    DataSpec,
    EvaluationSpec,
    Labels,
    ScratchSpec,
    SecretsSpec,
    Tracker,
    TrainingSpec,
)
from trainer_core.spec.publishing import OutputSpec, PushSpec
from trainer_core.spec.references import ModelReference
from trainer_core.spec.resources import ResourcesSpec

Better = Literal["higher", "lower"]  # which value of a metric is the better one


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

    # column -> why a row that fills it can't be trained on
    refused_columns: ClassVar[dict[str, str]] = {}


class Columns(SpecModel):
    """Which column of the file plays which role. A role whose value is null is not used."""

    def mapped(self) -> dict[str, str]:
        """Return role -> column of every role in use."""
        return {role: column for role, column in self if column is not None}

    def fitted(self, available: Iterable[str]) -> Self:  # noqa: ARG002 - subclasses look at it
        """Return these columns with what was left open decided by the columns that exist."""
        return self

    def may_be_absent(self, role: str) -> bool:  # noqa: ARG002 - subclasses look at it
        """Return whether a file may lack the column of a role in use."""
        return False


class TaskSpec(SpecModel):
    """What a job of any task says."""

    example: ClassVar[dict[str, Any]]  # a whole spec that parses, for docs and clients
    summary: ClassVar[str]  # one sentence
    max_length_tokens: ClassVar[int] = 512  # what `max_length: auto` never exceeds
    is_generating: ClassVar[bool] = False  # measuring it generates text, token by token
    has_token_logits: ClassVar[bool] = False  # the model scores its whole vocabulary at each token
    has_chunked_loss: ClassVar[bool] = False  # it holds few of these at a time, unless compiled
    # What `learning_rate: auto` is for all weights, and for an adapter.
    usual_rates: ClassVar[tuple[float, float]] = (5e-5, 2e-4)
    has_reference: ClassVar[bool] = False  # the base model says of the rows what it finds likely
    pools_tokens: ClassVar[bool] = False  # a text becomes one vector
    why_not_smoothed: ClassVar[str] = ""  # why training.label_smoothing changes nothing, if so

    version: Literal[1] = 1
    """Version of the spec's form. Stored specs parse for ever."""
    task: str
    """Which task."""
    name: ShortText | None = None
    """Name for people; need not be unique."""
    model: ModelReference
    """Base model: `hub:org/name[@revision]`, `model:NAME` or `job:ID`."""
    scratch: ScratchSpec | None = None
    """Begin with random weights in the base model's architecture, `{}` for its own sizes. Default
    null: begin with its weights."""
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
    """Experiment trackers to report to. Default none. Their addresses are the worker's, and
    their keys too, unless `secrets` names one. What they write as files comes with the model,
    in `tracking/`."""
    secrets: SecretsSpec = SecretsSpec()
    """Stored secrets to use. Default none."""
    output: OutputSpec = OutputSpec()
    """Further places for the model."""
    labels: Annotated[Labels, Field(max_length=16, default_factory=dict)]
    """Up to 16 key-value pairs of your own, for filtering."""

    @property
    def push(self) -> PushSpec | None:
        """Where the finished model is pushed, with the name of the secret that is used for it."""
        asked = self.output.push
        return asked and asked.with_secret(self.secrets)

    @property
    def columns(self) -> Columns:
        """The roles of the task and their columns."""
        raise NotImplementedError

    @property
    def label_column(self) -> str | None:
        """The column that names the classes; None for a task without classes."""
        return None

    @property
    def num_sequences(self) -> int:
        """How many texts of up to `max_length` tokens a row adds to a pass that learns."""
        return 1

    @property
    def num_row_tokens(self) -> int:
        """The most tokens of a text of a row, with what is written of it; for a resolved spec."""
        assert self.max_length != "auto", "max_length is chosen before"
        return self.max_length

    @property
    def num_scored_tokens(self) -> int:
        """The most tokens of a row at which the vocabulary is scored; for a resolved spec."""
        assert self.max_length != "auto", "max_length is chosen before"
        return self.max_length

    def row_type(self) -> type[Row]:
        """Return the type that a row must fit."""
        raise NotImplementedError

    def metrics(self) -> dict[str, Better]:
        """Return the evaluation metrics, the one that chooses the best model first."""
        raise NotImplementedError

    def classes_of(self, row: Row) -> tuple[str, ...]:  # noqa: ARG002 - tasks with classes look
        """Return the class labels that a row names; none for a task without classes."""
        return ()

    def unused(self) -> Iterator[FieldProblem]:
        """Yield each setting of the task's own that is given and changes nothing."""
        yield from ()

    @model_validator(mode="after")
    def _metric_is_measured(self) -> Self:
        if self.evaluation.metric not in ("auto", *self.metrics()):
            raise ValueError(
                f"evaluation.metric '{self.evaluation.metric}' is not measured for this job; "
                f"choose one of {', '.join(self.metrics())} or 'auto'"
            )
        return self

    @model_validator(mode="after")
    def _secrets_are_of_trackers_in_use(self) -> Self:
        for use in self.secrets.given():
            if use != "hf" and use not in self.tracking:
                raise ValueError(f"secrets.{use} goes with '{use}' in tracking")
        return self

    @model_validator(mode="after")
    def _adapter_freezes_all(self) -> Self:
        if self.adapter and self.training.freeze:
            raise ValueError(
                "training.freeze goes without an adapter: an adapter freezes all of the base model"
            )
        return self

    @model_validator(mode="after")
    def _adapter_stands_on_weights(self) -> Self:
        if self.adapter and self.scratch:
            raise ValueError("scratch goes without an adapter: it would freeze random weights")
        return self

    @model_validator(mode="after")
    def _evaluation_has_rows(self) -> Self:
        if self.training.early_stopping and not self.is_measured_in_training:
            raise ValueError(
                "training.early_stopping needs evaluation: set data.eval and evaluation.strategy"
            )
        if self.training.scheduler == "reduce_lr_on_plateau" and not self.is_measured_in_training:
            raise ValueError(
                "training.scheduler 'reduce_lr_on_plateau' needs evaluation: set data.eval and "
                "evaluation.strategy"
            )
        if self.checkpoints.strategy == "no" and self.training.early_stopping:
            raise ValueError("training.early_stopping needs checkpoints to go back to the best one")
        return self

    @property
    def is_measured_in_training(self) -> bool:
        """Whether there are evaluations by which a best model can be chosen."""
        return self.data.eval is not None and self.evaluation.strategy != "no"


def from_cell(value: Any) -> Any:
    """Return a value, from JSON if a table's cell had to hold a list or an object as text."""
    text = value.strip() if isinstance(value, str) else ""
    if not text.startswith(("[", "{")):
        return value
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError("a list in a table's cell is written as JSON") from error


def is_given(part: SpecModel, name: str) -> bool:
    """Return whether a field differs from its default; stored specs spell out the defaults too."""
    return bool(getattr(part, name) != type(part).model_fields[name].default)


def unused_field(pointer: str, why: str, hint: str = "Leave it out.") -> FieldProblem:
    """Return what to tell of a setting that changes nothing."""
    return FieldProblem(pointer, f"is not used: {why}", hint)
