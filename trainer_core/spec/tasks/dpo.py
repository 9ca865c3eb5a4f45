"""Direct preference optimization: what a job says."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from trainer_core.errors import FieldProblem
from trainer_core.spec.tasks.common import unused_field
from trainer_core.spec.tasks.preferences import PairSpec

_SORTED = "it sorts the pairs of a batch, so that the result would depend on how a batch is cut"
_REFUSED = {
    "aot": _SORTED,
    "aot_unpaired": _SORTED,
    "sft": "it learns nothing from what was rejected; the task causal-lm does the same",
}


def _of_single_pairs(value: Any) -> Any:
    if isinstance(value, str) and value in _REFUSED:
        raise ValueError(f"'{value}' is not available: {_REFUSED[value]}")
    return value


DPOLossType = Annotated[
    Literal[
        "sigmoid",
        "hinge",
        "ipo",
        "exo_pair",
        "nca_pair",
        "robust",
        "bco_pair",
        "sppo_hard",
        "apo_zero",
        "apo_down",
        "discopop",
        "sigmoid_norm",
    ],
    BeforeValidator(_of_single_pairs),
]
_SMOOTHED = {"robust", "exo_pair"}


class DPO(PairSpec):
    """Teach a language model which of two answers is the better one (DPO, Rafailov et al. 2023)."""

    summary = "Teach a language model which of two answers is the better one."
    has_token_logits = True
    usual_rates = (1e-6, 1e-5)
    has_reference = True
    why_not_smoothed = "no classes are learnt; the losses have a label_smoothing beside loss_type"
    example: ClassVar[dict[str, Any]] = {
        "task": "dpo",
        "model": "hub:HuggingFaceTB/SmolLM2-135M-Instruct",
        "data": {"train": "dataset:ds_0123456789ab"},
        "beta": 0.1,
        "training": {"epochs": 1, "batch_size": 32},
        "adapter": {"type": "lora", "r": 16},
    }

    task: Literal["dpo"] = "dpo"
    beta: Annotated[float, Field(gt=0, le=100)] = 0.1
    """Strength of the pull towards the reference, in (0, 100]. Default 0.1. For `ipo` it is what
    the paper calls tau."""
    loss_type: DPOLossType = "sigmoid"
    """Loss of a pair, by TRL's name for it. Default `sigmoid`, the paper's."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Probability that a pair is the wrong way round, in [0, 0.5), for `robust` and `exo_pair`;
    the latter needs it above 0 (its paper: 0.001). Default 0."""

    @model_validator(mode="after")
    def _exo_is_smoothed(self) -> Self:
        if self.loss_type == "exo_pair" and not self.label_smoothing:
            raise ValueError("loss_type 'exo_pair' needs a label_smoothing above 0, such as 0.001")
        return self

    def unused(self) -> Iterator[FieldProblem]:
        if self.label_smoothing and self.loss_type not in _SMOOTHED:
            why = f"the loss '{self.loss_type}' does not smooth"
            yield unused_field("/label_smoothing", why, "Set loss_type to 'robust'.")
