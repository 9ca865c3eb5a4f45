"""What a sweep says. Stored plans parse for ever."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StrictBool, StrictInt, model_validator

from trainer_core.spec.base import Auto, Name, ShortText, SpecModel

MAX_TRIALS = 1000
DEFAULT_TRIALS = 20

_Number = Annotated[float, Field(allow_inf_nan=False)]
_Whole = Annotated[StrictInt, Field(ge=-(2**53), le=2**53)]


class FloatRange(SpecModel):
    """A real number between two."""

    type: Literal["float"]
    low: _Number
    """Smallest value."""
    high: _Number
    """Largest value."""
    log: StrictBool = False
    """Spread over orders of magnitude, as learning rates are."""
    step: Annotated[float, Field(gt=0)] | None = None
    """Distance between neighbours, from `low` on. A grid needs it."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        _check_range(self.low, self.high, log=self.log)
        if self.log and self.step is not None:
            raise ValueError("log and step do not go together")
        return self


class IntRange(SpecModel):
    """A whole number between two."""

    type: Literal["int"]
    low: _Whole
    """Smallest value."""
    high: _Whole
    """Largest value."""
    log: StrictBool = False
    """Spread over orders of magnitude."""
    step: Annotated[StrictInt, Field(ge=1)] = 1
    """Distance between neighbours, from `low` on."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        _check_range(self.low, self.high, log=self.log)
        if self.log and self.step != 1:
            raise ValueError("log and step do not go together")
        return self


class Choice(SpecModel):
    """One of some values."""

    type: Literal["choice"]
    values: Annotated[list[Any], Field(min_length=1, max_length=100)]
    """Any JSON values."""


Dimension = Annotated[FloatRange | IntRange | Choice, Field(discriminator="type")]


class Objective(SpecModel):
    """By what trials are compared, on the evaluation rows."""

    metric: Name | Auto = "auto"
    """`auto`: the task's main metric."""
    direction: Literal["maximize", "minimize"] | Auto = "auto"
    """`auto`: whichever way the metric is better."""


class MedianPruner(SpecModel):
    """Cancel a trial that is worse than the median of those that have come as far."""

    type: Literal["median"] = "median"
    startup_trials: Annotated[StrictInt, Field(ge=1, le=MAX_TRIALS)] = 5
    """How many trials have to succeed before any is pruned."""
    warmup_steps: Annotated[StrictInt, Field(ge=0, le=10_000_000)] = 0
    """Optimizer steps before which no trial is pruned."""


class Plan(SpecModel):
    """A search for the best values of some fields of a job's spec."""

    version: Literal[1] = 1
    """Version of the plan's form."""
    name: ShortText | None = None
    """For people; the names of the jobs begin with it."""
    spec: dict[str, Any]
    """The spec of a job, as `POST /jobs` takes it; trials differ from it in `space` alone."""
    space: Annotated[dict[str, Dimension], Field(min_length=1, max_length=20)]
    """Fields of the spec, `/training/learning_rate` or `training.learning_rate`, and ranges."""
    sampler: Literal["grid", "random", "tpe"] = "tpe"
    """`grid`: every combination. `random`: independent ones. `tpe`: Optuna's tree-structured Parzen
    estimator, which learns from the trials before."""
    max_trials: Annotated[StrictInt, Field(ge=1, le=MAX_TRIALS)] | None = None
    """Jobs in all. Default: the whole grid, else 20."""
    max_parallel: Annotated[StrictInt, Field(ge=1, le=100)] = 2
    """Jobs at a time."""
    objective: Objective = Objective()
    """What is best."""
    pruner: MedianPruner | None = None
    """When a trial is given up early. Default null: never."""
    seed: Annotated[StrictInt, Field(ge=0, lt=2**31)] = 0
    """The same seed and the same results of trials give the same next values."""

    @property
    def num_trials(self) -> int:
        """Jobs in all, of a plan that was checked."""
        assert self.max_trials is not None
        return self.max_trials

    @property
    def is_maximizing(self) -> bool:
        """Whether larger values are better, of a plan that was checked."""
        assert self.objective.direction != "auto"
        return self.objective.direction == "maximize"


def _check_range(low: float, high: float, *, log: bool) -> None:
    if low > high:
        raise ValueError(f"low is above high: {low:g} > {high:g}")
    if log and low <= 0:
        raise ValueError(f"log needs a low above 0, not {low:g}")
