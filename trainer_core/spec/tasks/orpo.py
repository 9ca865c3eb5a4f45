"""Odds ratio preference optimization: what a job says."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from trainer_core.errors import FieldProblem
from trainer_core.spec.base import Auto
from trainer_core.spec.tasks.common import Better, Row, TaskSpec, unused_field
from trainer_core.spec.tasks.preferences import Pair, PairColumns, PairData


class ORPO(TaskSpec):
    """Teach answers and which are the better ones, without a reference (Hong et al. 2024)."""

    summary = "Teach a language model to answer, and which answers are the better ones, at once."
    max_length_tokens = 1024
    has_token_logits = True
    usual_rates = (8e-6, 1e-4)
    example: ClassVar[dict[str, Any]] = {
        "task": "orpo",
        "model": "hub:HuggingFaceTB/SmolLM2-135M",
        "data": {"train": "dataset:ds_0123456789ab"},
        "training": {"epochs": 1, "batch_size": 32},
    }

    task: Literal["orpo"] = "orpo"
    data: PairData
    beta: Annotated[float, Field(gt=0, le=100)] = 0.1
    """Weight of the odds ratio beside the likelihood of the chosen completion, in (0, 100]; the
    paper calls it lambda. Default 0.1, the paper's."""
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
            "nll": "lower",
            "loss": "lower",
        }

    def unused(self) -> Iterator[FieldProblem]:
        if self.training.label_smoothing:
            why = "the likelihood of the chosen completion is learnt as it is"
            yield unused_field("/training/label_smoothing", why)
