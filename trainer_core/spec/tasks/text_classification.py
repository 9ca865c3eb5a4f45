"""Text classification: what a job says, and its rows."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from trainer_core.errors import FieldProblem
from trainer_core.spec.base import Auto, ColumnName
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

ClassWeight = Annotated[float, Field(gt=0, le=1_000_000)]


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
    threshold: Annotated[float, Field(gt=0, lt=1)] | Auto = 0.5
    """Probability from which a class counts as named, in (0, 1); multi-label only. `auto`: at each
    evaluation the one for all classes with the best micro F1 on the evaluation rows, told among the
    metrics and used for the test. Default 0.5."""
    class_weights: Literal["none", "balanced"] | dict[Label, ClassWeight] = "none"
    """How much a row of a class counts in the loss: all alike; `balanced`, so that each class
    counts as much as any other; or {class: weight}, weights above 0, 1 for classes left out. Of
    multi-label rows it weighs that a class is named against that it is not, and `balanced` makes
    both count alike. Default none."""

    @property
    def columns(self) -> TextClassificationColumns:
        return self.data.columns

    @property
    def label_column(self) -> str:
        return self.data.columns.label

    @model_validator(mode="after")
    def _threshold_has_rows(self) -> Self:
        if self.threshold == "auto" and self.data.eval is None:
            raise ValueError("threshold 'auto' is chosen on evaluation rows: set data.eval")
        return self

    def row_type(self) -> type[Row]:
        return _ROWS[self.problem]

    def metrics(self) -> dict[str, Better]:
        match self.problem:
            case "single-label":
                scores = ("accuracy", "macro_f1", "micro_f1", "weighted_f1", "mcc", "roc_auc")
                return {**dict.fromkeys(scores, "higher"), "loss": "lower"}
            case "multi-label":
                shares = ("macro_f1", "micro_f1", "weighted_f1", "accuracy", "roc_auc")
                return {**dict.fromkeys(shares, "higher"), "loss": "lower"}
            case "regression":
                return {
                    "mse": "lower",
                    "mae": "lower",
                    "pearson": "higher",
                    "spearman": "higher",
                    "loss": "lower",
                }

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
        if is_given(self, "class_weights") and self.problem == "regression":
            yield unused_field("/class_weights", "regression has no classes")
        if self.training.label_smoothing and self.problem != "single-label":
            yield unused_field(
                "/training/label_smoothing", f"{self.problem} classification does not smooth labels"
            )
