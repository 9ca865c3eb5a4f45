"""What the outputs of a text classifier say: its figures, and its answer to each row.

Shapes: B rows, C classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import expit, logit, softmax

from trainer_core.training.data.tokens import Array
from trainer_core.training.metrics.class_scores import (
    best_cut,
    class_table,
    confusions,
    multi_label_scores,
    number_scores,
    single_label_scores,
)
from trainer_core.training.recipes.recipe import Measured


@dataclass(frozen=True, slots=True)
class SingleLabelJudge:
    """One class a row."""

    classes: tuple[str, ...]

    def scores(self, measured: Measured) -> dict[str, float]:
        """Return the metrics."""
        return single_label_scores(measured.rows.values("labels"), _logits(measured))

    def details(self, measured: Measured) -> dict[str, Any]:
        """Return the figures of each class, and which was taken for which."""
        truth_B, guesses_B = measured.rows.values("labels"), _logits(measured).argmax(-1)
        return {
            "classes": class_table(truth_B, guesses_B, classes=self.classes),
            "confusion": confusions(truth_B, guesses_B, classes=self.classes),
        }

    def predictions(self, measured: Measured) -> Iterator[dict[str, Any]]:
        """Yield the likeliest class of each row and its probability."""
        for shares_C in softmax(_logits(measured), axis=-1):
            best = int(shares_C.argmax())
            yield {"label": self.classes[best], "score": float(shares_C[best])}


@dataclass(frozen=True, slots=True)
class MultiLabelJudge:
    """Any number of classes a row: those whose probability reaches the threshold."""

    classes: tuple[str, ...]
    threshold: float | Literal["auto"]

    def scores(self, measured: Measured) -> dict[str, float]:
        """Return the metrics, and the threshold if it was chosen."""
        cut = self._cut(measured)
        scores = multi_label_scores(_marks(measured), _logits(measured), cut=cut)
        return scores | ({"threshold": float(expit(cut))} if self.threshold == "auto" else {})

    def details(self, measured: Measured) -> dict[str, Any]:
        """Return the figures of each class, and the threshold at which they hold."""
        cut = self._cut(measured)
        guesses_BC = (_logits(measured) >= cut).astype(int)
        table = class_table(_marks(measured), guesses_BC, classes=self.classes)
        return {"classes": table, "threshold": float(expit(cut))}

    def predictions(self, measured: Measured) -> Iterator[dict[str, Any]]:
        """Yield the classes named of each row and their probabilities, the likeliest first."""
        cut = self._cut(measured)
        for logits_C in _logits(measured):
            named = [int(c) for c in np.argsort(-logits_C, kind="stable") if logits_C[c] >= cut]
            scores = [float(expit(logits_C[c])) for c in named]
            yield {"labels": [self.classes[c] for c in named], "scores": scores}

    def _cut(self, measured: Measured) -> float:
        """Return the logit from which a class is named."""
        if self.threshold != "auto":
            return float(logit(self.threshold))
        if measured.split == "eval":
            return best_cut(_marks(measured), _logits(measured))
        return float(logit(measured.evaluated["threshold"]))


@dataclass(frozen=True, slots=True)
class RegressionJudge:
    """One number a row."""

    def scores(self, measured: Measured) -> dict[str, float]:
        """Return the metrics."""
        return number_scores(
            measured.rows.values("labels").astype(np.float64),
            _logits(measured)[:, 0].astype(np.float64),
        )

    def details(self, measured: Measured) -> dict[str, Any]:
        """Return nothing: the metrics say all."""
        return {}

    def predictions(self, measured: Measured) -> Iterator[dict[str, Any]]:
        """Yield the number of each row."""
        return ({"number": float(number)} for number in _logits(measured)[:, 0])


def _logits(measured: Measured) -> Array:
    return np.stack(measured.predictions)


def _marks(measured: Measured) -> Array:
    """Return the classes of each row as zeros and ones, (B, C)."""
    return measured.rows.values("labels").reshape(len(measured.rows), -1).astype(int)
