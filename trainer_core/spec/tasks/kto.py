"""Kahneman-Tversky optimization: what a job says, and its rows."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from trainer_core.spec.base import Auto, ColumnName
from trainer_core.spec.parts import DataSpec
from trainer_core.spec.tasks.common import Better, Columns, Row, TaskSpec
from trainer_core.spec.tasks.preferences import Passage, alike, check_answers


class KTOColumns(Columns):
    """Roles of KTO."""

    prompt: ColumnName = "prompt"
    """What comes before the completion: text, or a list of {role, content} messages. Default
    `prompt`."""
    completion: ColumnName = "completion"
    """What was said to it: text, which is joined to the prompt as it is, or messages. Default
    `completion`."""
    label: ColumnName = "label"
    """Whether the completion is a good one: true or false. Default `label`."""


class KTOData(DataSpec):
    """Rows of KTO."""

    columns: KTOColumns = KTOColumns()
    """Which column plays which role."""


class Judged(Row):
    """A prompt, a completion, and whether that is a good one."""

    prompt: Passage
    completion: Passage
    label: bool

    @property
    def parts(self) -> tuple[Any, Any]:
        """Prompt and completion: two strings, or two tuples of messages."""
        prompt, completion = alike(self.prompt, self.completion, roles=("user", "assistant"))
        return prompt, completion

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        check_answers(self.parts[1], name="completion")
        return self


_Weight = Annotated[float, Field(gt=0, le=1000)]


class KTO(TaskSpec):
    """Teach a language model by answers marked good or bad (KTO, Ethayarajh et al. 2024)."""

    summary = "Teach a language model by answers that are each marked as good or bad."
    max_length_tokens = 1024
    has_token_logits = True
    usual_rates = (1e-6, 1e-5)
    has_reference = True
    why_not_smoothed = "no classes are learnt"
    example: ClassVar[dict[str, Any]] = {
        "task": "kto",
        "model": "hub:HuggingFaceTB/SmolLM2-135M-Instruct",
        "data": {"train": "dataset:ds_0123456789ab"},
        "training": {"epochs": 1, "batch_size": 32},
        "adapter": {"type": "lora", "r": 16},
    }

    task: Literal["kto"] = "kto"
    data: KTOData
    beta: Annotated[float, Field(gt=0, le=100)] = 0.1
    """Strength of the pull towards the reference, in (0, 100]. Default 0.1."""
    desirable_weight: _Weight = 1.0
    """Weight of the loss of good completions, in (0, 1000]. Default 1. The paper advises weights
    by which good and bad ones count alike, the good up to a third more."""
    undesirable_weight: _Weight = 1.0
    """Weight of the loss of bad completions, in (0, 1000]. Default 1."""
    chat_template: Literal["model", "chatml"] | Auto = "auto"
    """How messages become text. `auto`: the model's own template if it has one, else ChatML."""

    @property
    def columns(self) -> KTOColumns:
        return self.data.columns

    @property
    def label_column(self) -> str:
        return self.data.columns.label

    def row_type(self) -> type[Row]:
        return Judged

    def classes_of(self, row: Row) -> tuple[str, ...]:
        assert isinstance(row, Judged), f"a row of another task: {row}"
        return ("true",) if row.label else ("false",)

    def metrics(self) -> dict[str, Better]:
        return {
            "reward_auc": "higher",
            "reward_margin": "higher",
            "desirable_reward": "higher",
            "undesirable_reward": "lower",
            "kl": "lower",
            "loss": "lower",
        }
