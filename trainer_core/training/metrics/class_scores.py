"""The field's figures for texts sorted into classes, or scored with a number.

Where a figure is undefined it is left out: who called says so. Shapes: B rows, C classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import softmax
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    matthews_corrcoef,
    mean_absolute_error,
    mean_squared_error,
    precision_recall_curve,
    precision_recall_fscore_support,
    roc_auc_score,
)

from trainer_core.training.data.tokens import Array

MAX_CONFUSION_CLASSES = 100  # a matrix of more is not read by anybody
MAX_CONFUSIONS = 200
_MAX_LOGIT = 30.0  # a probability of 1 - 1e-13: beyond it none is told from 1


def single_label_scores(truth_B: Array, logits_BC: Array) -> dict[str, float]:
    """Return the figures of one class a row; without mcc and roc_auc if all have the same."""
    guesses_B = logits_BC.argmax(axis=-1)
    present = np.unique(truth_B)
    scores = {
        "accuracy": float(accuracy_score(truth_B, guesses_B)),
        **_f1_scores(truth_B, guesses_B, present=present),
    }
    if len(present) > 1:
        scores["mcc"] = float(matthews_corrcoef(truth_B, guesses_B))
    one_hot_BC = truth_B[:, None] == np.arange(logits_BC.shape[1])
    return scores | _roc_auc(one_hot_BC, softmax(logits_BC.astype(np.float64), axis=-1))


def multi_label_scores(truth_BC: Array, logits_BC: Array, *, cut: float) -> dict[str, float]:
    """Return the figures of any number of classes a row, named from a logit of `cut` on.

    Accuracy is the share of rows that are all right. Without roc_auc if it is undefined for each
    class.
    """
    guesses_BC = (logits_BC >= cut).astype(int)
    present = np.flatnonzero(truth_BC.any(axis=0))
    return {
        **_f1_scores(truth_BC, guesses_BC, present=present),
        "accuracy": float((guesses_BC == truth_BC).all(axis=1).mean()),
        **_roc_auc(truth_BC.astype(bool), logits_BC.astype(np.float64)),
    }


def number_scores(truth_B: Array, guesses_B: Array) -> dict[str, float]:
    """Return the figures of numbers; without correlations if one side is a single number."""
    scores = {
        "mse": float(mean_squared_error(truth_B, guesses_B)),
        "mae": float(mean_absolute_error(truth_B, guesses_B)),
    }
    if len(truth_B) < 2 or not guesses_B.std() > 0 or not truth_B.std() > 0:
        return scores
    return scores | {
        "pearson": float(pearsonr(guesses_B, truth_B).statistic),
        "spearman": float(spearmanr(guesses_B, truth_B).statistic),
    }


def _f1_scores(truth: Array, guesses: Array, *, present: Array) -> dict[str, float]:
    """Return F1 averaged in three ways; macro over the classes that some row has.

    Of others there is nothing to find.
    """
    averaged = {
        name: float(f1_score(truth, guesses, labels=labels, average=name, zero_division=0))
        for name, labels in (("macro", present), ("micro", None), ("weighted", None))
        if len(present)
    }
    return {f"{name}_f1": averaged.get(name, 0.0) for name in ("macro", "micro", "weighted")}


def _roc_auc(is_of_class_BC: Array, scores_BC: Array) -> dict[str, float]:
    """Return the mean area under the ROC curve of each class against the rest.

    Over the classes that some rows have and some have not.
    """
    num_rows_C = is_of_class_BC.sum(axis=0)
    defined = np.flatnonzero((num_rows_C > 0) & (num_rows_C < len(is_of_class_BC)))
    if not len(defined):
        return {}
    areas = [roc_auc_score(is_of_class_BC[:, c], scores_BC[:, c]) for c in defined]
    return {"roc_auc": float(np.mean(areas))}


def best_cut(truth_BC: Array, logits_BC: Array) -> float:
    """Return the logit from which classes are named for the best micro F1.

    It is half-way between two logits, so that rounding decides nothing; 0 if no row has a class.
    """
    if not truth_BC.any():
        return 0.0
    precision, recall, cuts = precision_recall_curve(truth_BC.ravel(), logits_BC.ravel())
    # 2 * P * R / (P + R), of which the last point belongs to no cut
    f1 = 2 * precision[:-1] * recall[:-1] / np.maximum(precision[:-1] + recall[:-1], 1e-12)
    best = int(f1.argmax())
    below = cuts[best - 1] if best else cuts[best] - 1.0
    return float(np.clip((cuts[best] + below) / 2, -_MAX_LOGIT, _MAX_LOGIT))


def class_table(truth: Array, guesses: Array, *, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return precision, recall, F1 and support (rows that have it) of each class."""
    columns = precision_recall_fscore_support(
        truth, guesses, labels=np.arange(len(classes)), average=None, zero_division=0
    )
    names = ("precision", "recall", "f1", "support")
    rows = zip(classes, *(column.tolist() for column in columns), strict=True)
    return [{"label": label, **dict(zip(names, row, strict=True))} for label, *row in rows]


def confusions(truth_B: Array, guesses_B: Array, *, classes: Sequence[str]) -> dict[str, Any]:
    """Return which class was taken for which.

    Up to 100 classes as `matrix`, a line for each true class; of more, the 200 most frequent
    mistakes.
    """
    matrix_CC = confusion_matrix(truth_B, guesses_B, labels=np.arange(len(classes)))
    if len(classes) <= MAX_CONFUSION_CLASSES:
        return {"labels": list(classes), "matrix": matrix_CC.tolist()}
    np.fill_diagonal(matrix_CC, 0)
    order = np.argsort(-matrix_CC, axis=None, kind="stable")[:MAX_CONFUSIONS]
    places = zip(*np.unravel_index(order, matrix_CC.shape), strict=True)
    return {
        "most_frequent": [
            {"label": classes[true], "guess": classes[guess], "count": int(matrix_CC[true, guess])}
            for true, guess in places
            if matrix_CC[true, guess]
        ]
    }
