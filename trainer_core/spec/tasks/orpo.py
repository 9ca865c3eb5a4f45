"""Odds ratio preference optimization: what a job says."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from trainer_core.spec.tasks.common import Better
from trainer_core.spec.tasks.preferences import PairSpec


class ORPO(PairSpec):
    """Teach answers and which are the better ones, without a reference (Hong et al. 2024)."""

    summary = "Teach a language model to answer, and which answers are the better ones, at once."
    has_token_logits = True
    usual_rates = (8e-6, 1e-4)
    why_not_smoothed = "the likelihood of the chosen completion is learnt as it is"
    example: ClassVar[dict[str, Any]] = {
        "task": "orpo",
        "model": "hub:HuggingFaceTB/SmolLM2-135M",
        "data": {"train": "dataset:ds_0123456789ab"},
        "training": {"epochs": 1, "batch_size": 32},
    }

    task: Literal["orpo"] = "orpo"
    beta: Annotated[float, Field(gt=0, le=100)] = 0.1
    """Weight of the odds ratio beside the likelihood of the chosen completion, in (0, 100]; the
    paper calls it lambda. Default 0.1, the paper's."""

    def metrics(self) -> dict[str, Better]:
        return {**super().metrics(), "nll": "lower"}
