"""Text classification: what a job says, and its rows."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from trainer_core.errors import FieldProblem
from trainer_core.spec.base import ColumnName
from trainer_core.spec.parts import DataSpec
from trainer_core.spec.tasks.common import (
    Better,
    Columns,
    Label,
    NonEmpty,
    Row,
    TaskSpec,
    is_given,
    unused_field,
)


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


_ROWS: dict[str, type[Row]] = {
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

    @property
    def label_column(self) -> str:
        return self.data.columns.label

    def row_type(self) -> type[Row]:
        return _ROWS[self.problem]

    def metrics(self) -> dict[str, Better]:
        match self.problem:
            case "single-label":
                return {"accuracy": "higher", "macro_f1": "higher", "loss": "lower"}
            case "multi-label":
                return {
                    "macro_f1": "higher",
                    "micro_f1": "higher",
                    "accuracy": "higher",
                    "loss": "lower",
                }
            case "regression":
                return {"mse": "lower", "pearson": "higher", "loss": "lower"}

    def classes_of(self, row: Row) -> tuple[str, ...]:
        match row:
            case SingleLabelRow():
                return (row.label,)
            case MultiLabelRow():
                return tuple(dict.fromkeys(row.label))
            case _:
                return ()

    def unused(self) -> Iterator[FieldProblem]:
        if is_given(self, "threshold") and self.problem != "multi-label":
            yield unused_field("/threshold", f"{self.problem} classification has no threshold")
        if self.training.label_smoothing and self.problem != "single-label":
            yield unused_field(
                "/training/label_smoothing", f"{self.problem} classification does not smooth labels"
            )
