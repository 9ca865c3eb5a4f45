"""Sentence embedding: what a job says, and its rows."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from trainer_core.errors import FieldProblem, InvalidSpec
from trainer_core.spec.base import Auto, ColumnName, Text
from trainer_core.spec.parts import DataSpec
from trainer_core.spec.tasks.common import (
    Better,
    Columns,
    NonEmpty,
    Row,
    TaskSpec,
    is_given,
    unused_field,
)

Form = Literal["pairs", "triplets", "scored"]
Loss = Literal["in-batch", "triplet", "cosent", "cosine"]

# The roles of each form, and the columns in which they are looked for.
_ROLES: dict[Form, dict[str, tuple[str, ...]]] = {
    "pairs": {"anchor": ("anchor",), "positive": ("positive",)},
    "triplets": {"anchor": ("anchor",), "positive": ("positive",), "negative": ("negative",)},
    "scored": {
        "text": ("text", "sentence1"),
        "text_pair": ("text_pair", "sentence2"),
        "score": ("score",),
    },
}
_LOSSES: dict[Form, tuple[Loss, ...]] = {  # the one that is used if none is given first
    "pairs": ("in-batch",),
    "triplets": ("in-batch", "triplet"),
    "scored": ("cosent", "cosine"),
}


class SentenceEmbeddingColumns(Columns):
    """Roles of sentence embedding: those of pairs, of triplets or of scored pairs.

    With none given, the form is the one whose columns there are: `anchor`, `positive` and
    `negative`; `anchor` and `positive`; or two texts and a `score`.
    """

    anchor: ColumnName | None = None
    """The text to search by, such as a question. Default `anchor`."""
    positive: ColumnName | None = None
    """A text that belongs to it, such as the answer. Default `positive`."""
    negative: ColumnName | None = None
    """A text like the positive that does not belong to it. Default `negative`, if there is such a
    column and no role is given."""
    text: ColumnName | None = None
    """First text of a scored pair. Default `text`, or `sentence1`."""
    text_pair: ColumnName | None = None
    """Second text of a scored pair. Default `text_pair`, or `sentence2`."""
    score: ColumnName | None = None
    """How alike the two are; higher is more alike. Default `score`."""

    @model_validator(mode="after")
    def _roles_of_one_form(self) -> Self:
        given = set(self.mapped())
        if given & set(_ROLES["scored"]) and given & set(_ROLES["triplets"]):
            raise ValueError(
                "give columns.anchor, .positive and .negative, or columns.text, .text_pair and "
                ".score, not of both"
            )
        return self

    @property
    def form(self) -> Form | None:
        """The form that the given roles say; None with none given."""
        given = set(self.mapped())
        if given & set(_ROLES["scored"]):
            return "scored"
        if given:
            return "triplets" if "negative" in given else "pairs"
        return None

    def fitted(self, available: Iterable[str]) -> Self:
        there = set(available)
        form = self.form or _form_of(there)
        found = {
            role: getattr(self, role) or next((n for n in names if n in there), names[0])
            for role, names in _ROLES[form].items()
        }
        return self.model_copy(update=found)


def _form_of(columns: set[str]) -> Form:
    if "anchor" in columns:
        return "triplets" if "negative" in columns else "pairs"
    return "scored" if columns & {"text", "sentence1", "score"} else "pairs"


class SentenceEmbeddingData(DataSpec):
    """Rows of sentence embedding."""

    columns: SentenceEmbeddingColumns = SentenceEmbeddingColumns()
    """Which column plays which role."""


class PairRow(Row):
    anchor: NonEmpty
    positive: NonEmpty


class TripletRow(PairRow):
    negative: NonEmpty

    @model_validator(mode="after")
    def _negative_is_another_text(self) -> Self:
        if self.negative == self.positive:
            raise ValueError("the negative is the same text as the positive")
        return self


class ScoredRow(Row):
    text: NonEmpty
    text_pair: NonEmpty
    score: Annotated[float, Field(allow_inf_nan=False)]


class CosineRow(ScoredRow):
    """A scored pair whose score is a cosine."""

    @model_validator(mode="after")
    def _score_is_a_cosine(self) -> Self:
        if not -1 <= self.score <= 1:
            raise ValueError(
                f"the score {self.score:g} is outside -1 to 1, so no cosine can be learnt from it: "
                "scale the scores, or set loss to 'cosent', which looks at their order alone"
            )
        return self


class SentenceEmbedding(TaskSpec):
    """Teach a model to turn texts into vectors that are close where the texts belong together."""

    summary = "Teach a model to turn texts into vectors, close where the texts belong together."
    pools_tokens = True
    why_not_smoothed = "there are no classes to smooth over"
    example: ClassVar[dict[str, Any]] = {
        "task": "sentence-embedding",
        "model": "hub:sentence-transformers/all-MiniLM-L6-v2",
        "data": {
            "train": "dataset:ds_0123456789ab",
            "columns": {"anchor": "question", "positive": "answer"},
        },
        "training": {"epochs": 1, "learning_rate": 2e-5, "batch_size": 64},
    }

    task: Literal["sentence-embedding"] = "sentence-embedding"
    data: SentenceEmbeddingData
    loss: Loss | None = None
    """What is learnt. Of pairs and triplets: `in-batch`, to tell the positive from those of all
    other rows of the optimizer step, and from the negatives; of triplets also `triplet`, the
    positive nearer than the negative by `margin`. Of scored pairs: `cosent`, the order of the
    scores, which may have any range, or `cosine`, the score itself, -1 to 1. Default null:
    `in-batch` or `cosent`. With `in-batch` a larger `training.batch_size` learns more."""
    scale: Annotated[float, Field(gt=0, le=1000)] = 20.0
    """What cosines are multiplied by, the inverse of a temperature; losses in-batch and cosent
    only. Default 20."""
    symmetric: bool = False
    """Also tell the anchor from those of the other rows, given the positive; loss in-batch only.
    Default false."""
    margin: Annotated[float, Field(gt=0, le=2)] = 0.2
    """Difference of cosines, in (0, 2], from which on a triplet is learnt; loss triplet only.
    Default 0.2."""
    pooling: Literal["mean", "cls", "last"] | Auto = "auto"
    """How the vectors of tokens become one: their mean, the first or the last one. `auto`: as the
    base model says if it is one for sentences, else the last for a language model, or the mean."""
    normalize: bool | Auto = "auto"
    """Make vectors of length 1. `auto`: as the base model says if it is one for sentences, else
    true."""
    query_prompt: Annotated[Text, Field(max_length=10_000)] | None = None
    """Put before each anchor, or first text of a scored pair, such as `query: `, and saved with the
    model. Default null: the base model's own for queries, if it has one."""
    document_prompt: Annotated[Text, Field(max_length=10_000)] | None = None
    """Put before each positive and negative, or second text. Default null: the base model's own for
    documents, if it has one."""

    @property
    def columns(self) -> SentenceEmbeddingColumns:
        return self.data.columns

    @property
    def num_sequences(self) -> int:
        return 3 if self.columns.form == "triplets" else 2

    @property
    def loss_in_use(self) -> Loss:
        """The loss; the columns are decided before."""
        assert self.columns.form is not None, "the columns are fitted before"
        return self.loss or _LOSSES[self.columns.form][0]

    @model_validator(mode="after")
    def _loss_suits_the_columns(self) -> Self:
        if problem := self._loss_problem():
            raise ValueError(problem)
        return self

    def _loss_problem(self) -> str | None:
        form = self.columns.form
        if form is None or self.loss is None or self.loss in _LOSSES[form]:
            return None
        fitting = " or ".join(f"'{loss}'" for loss in _LOSSES[form])
        return f"loss '{self.loss}' is not for {_SHOWN[form]}; choose {fitting}, or other columns"

    def row_type(self) -> type[Row]:
        """Return the type that a row must fit; raise InvalidSpec for a loss of other rows."""
        if problem := self._loss_problem():  # columns that were left open are decided by the file
            raise InvalidSpec([FieldProblem("/loss", problem)])
        match self.columns.form:
            case "triplets":
                return TripletRow
            case "scored":
                return CosineRow if self.loss == "cosine" else ScoredRow
            case _:
                return PairRow

    def metrics(self) -> dict[str, Better]:
        form = self.columns.form
        found: dict[str, Better] = {}
        if form != "scored":
            names = ("recall_at_1", "recall_at_5", "recall_at_10", "mrr")
            found |= dict.fromkeys(names, "higher")
        if form in ("triplets", None):
            found["triplet_accuracy"] = "higher"
        if form in ("scored", None):
            found |= {"spearman": "higher", "pearson": "higher"}
        # That of in-batch and cosent also depends on the size of evaluation.batch_size.
        return found | {"loss": "lower"}

    def unused(self) -> Iterator[FieldProblem]:
        loss = self.loss_in_use
        for name, losses in (
            ("scale", ("in-batch", "cosent")),
            ("symmetric", ("in-batch",)),
            ("margin", ("triplet",)),
        ):
            if is_given(self, name) and loss not in losses:
                yield unused_field(f"/{name}", f"the loss '{loss}' does not have it")


_SHOWN: dict[Form, str] = {
    "pairs": "pairs of texts",
    "triplets": "triplets of texts",
    "scored": "scored pairs",
}
