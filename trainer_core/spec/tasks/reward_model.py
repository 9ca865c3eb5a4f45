"""Reward modelling: what a job says, and its rows."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from trainer_core.errors import FieldProblem
from trainer_core.spec.base import Auto, ColumnName
from trainer_core.spec.parts import DataSpec
from trainer_core.spec.tasks.common import Better, Row, TaskSpec, unused_field
from trainer_core.spec.tasks.preferences import Pair, PairColumns


class RewardModelColumns(PairColumns):
    """Roles of reward modelling."""

    margin: ColumnName | None = None
    """By how much the chosen completion's reward is to be the higher one, a number. Default null:
    by anything."""


class RewardModelData(DataSpec):
    """Rows of reward modelling."""

    columns: RewardModelColumns = RewardModelColumns()
    """Which column plays which role."""


class RewardedPair(Pair):
    """A pair, and how much better the chosen completion is."""

    margin: Annotated[float, Field(allow_inf_nan=False)] = 0.0


class RewardModel(TaskSpec):
    """Teach a model to score texts, so that better ones score higher (Bradley and Terry 1952)."""

    summary = "Teach a model to score texts, so that the better of two scores higher."
    max_length_tokens = 1024
    usual_rates = (1e-5, 1e-4)
    example: ClassVar[dict[str, Any]] = {
        "task": "reward-model",
        "model": "hub:HuggingFaceTB/SmolLM2-135M-Instruct",
        "data": {"train": "dataset:ds_0123456789ab"},
        "training": {"epochs": 1, "batch_size": 32},
    }

    task: Literal["reward-model"] = "reward-model"
    data: RewardModelData
    chat_template: Literal["model", "chatml"] | Auto = "auto"
    """How messages become text. `auto`: the model's own template if it has one, else ChatML."""

    @property
    def columns(self) -> RewardModelColumns:
        return self.data.columns

    @property
    def num_sequences(self) -> int:
        return 2

    def row_type(self) -> type[Row]:
        return RewardedPair

    def metrics(self) -> dict[str, Better]:
        return {
            "reward_accuracy": "higher",
            "reward_margin": "higher",
            "chosen_reward": "higher",
            "rejected_reward": "lower",
            "loss": "lower",
        }

    def unused(self) -> Iterator[FieldProblem]:
        if self.training.label_smoothing:
            yield unused_field("/training/label_smoothing", "no classes are learnt")
