"""Reward modelling: what a job says, and its rows."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from trainer_core.spec.base import ColumnName
from trainer_core.spec.tasks.common import Row
from trainer_core.spec.tasks.preferences import Pair, PairColumns, PairData, PairSpec


class RewardModelColumns(PairColumns):
    """Roles of reward modelling."""

    margin: ColumnName | None = None
    """By how much the chosen completion's reward is to be the higher one, a number. Default null:
    by anything."""


class RewardModelData(PairData):
    """Rows of reward modelling."""

    columns: RewardModelColumns = RewardModelColumns()
    """Which column plays which role."""


class RewardedPair(Pair):
    """A pair, and how much better the chosen completion is."""

    margin: Annotated[float, Field(allow_inf_nan=False)] = 0.0


class RewardModel(PairSpec):
    """Teach a model to score texts, so that better ones score higher (Bradley and Terry 1952)."""

    summary = "Teach a model to score texts, so that the better of two scores higher."
    usual_rates = (1e-5, 1e-4)
    why_not_smoothed = "no classes are learnt"
    example: ClassVar[dict[str, Any]] = {
        "task": "reward-model",
        "model": "hub:HuggingFaceTB/SmolLM2-135M-Instruct",
        "data": {"train": "dataset:ds_0123456789ab"},
        "training": {"epochs": 1, "batch_size": 32},
    }

    task: Literal["reward-model"] = "reward-model"
    data: RewardModelData

    @property
    def columns(self) -> RewardModelColumns:
        return self.data.columns

    def row_type(self) -> type[Row]:
        return RewardedPair
