from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from tests.training.tiny import tokenized
from trainer_core.training.metrics.class_scores import (
    best_cut,
    class_table,
    confusions,
    multi_label_scores,
    number_scores,
    single_label_scores,
)
from trainer_core.training.recipes.judges import MultiLabelJudge, RegressionJudge, SingleLabelJudge
from trainer_core.training.recipes.recipe import Measured

pytestmark = pytest.mark.slow


def _measured(
    folder: Path, *, logits: list[list[float]], labels: list[Any], **parts: Any
) -> Measured:
    rows = tokenized(folder, [{"labels": label} for label in labels])
    guesses = [np.array(row, dtype=np.float32) for row in logits]
    return Measured(parts.pop("split", "eval"), rows, guesses, **parts)


def test_figures_of_two_classes_are_those_of_their_definitions() -> None:
    truth = np.array([0, 0, 0, 1, 1])
    margins = np.array([-2.0, -1.0, 0.5, 0.4, 3.0])  # of class 1; right in 4 of 5
    scores = single_label_scores(truth, np.stack([-margins / 2, margins / 2], axis=1))
    assert scores["accuracy"] == scores["micro_f1"] == pytest.approx(4 / 5)
    f1 = {0: 2 * 2 / (2 * 2 + 1), 1: 2 * 2 / (2 * 2 + 1)}  # 2 TP / (2 TP + FP + FN)
    assert scores["macro_f1"] == pytest.approx((f1[0] + f1[1]) / 2)
    assert scores["weighted_f1"] == pytest.approx((3 * f1[0] + 2 * f1[1]) / 5)
    # (TP TN - FP FN) / sqrt((TP+FP)(TP+FN)(TN+FP)(TN+FN))
    assert scores["mcc"] == pytest.approx((2 * 2 - 1 * 0) / np.sqrt(3 * 2 * 3 * 2))
    assert scores["roc_auc"] == pytest.approx(5 / 6)  # pairs of both classes in the right order


def test_classes_that_no_row_has_count_in_no_mean() -> None:
    # F1 of class 0 is 2/3, of 1 is 1; the last is guessed once and is in no row.
    logits = np.array([[9.0, 0.0, 0.0], [0.0, 0.0, 9.0], [0.0, 9.0, 0.0]])
    one = single_label_scores(np.array([0, 0, 1]), logits)
    assert one["macro_f1"] == one["weighted_f1"] + 1 / 18 == pytest.approx((2 / 3 + 1) / 2)
    marks = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0]])
    many = multi_label_scores(marks, logits - 1, cut=0.0)
    assert many["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert many["roc_auc"] == pytest.approx((0.75 + 1) / 2)  # two rows tie for class 0


def test_the_area_under_the_curve_of_classes_is_each_against_the_rest() -> None:
    chance = np.random.default_rng(1)
    truth, logits = chance.integers(4, size=50), chance.normal(size=(50, 4))
    expected = roc_auc_score(truth, softmax(logits, axis=-1), multi_class="ovr", average="macro")
    assert single_label_scores(truth, logits)["roc_auc"] == pytest.approx(expected)


def test_one_row_has_the_figures_that_are_defined() -> None:
    one = single_label_scores(np.array([1]), np.array([[0.0, 1.0]]))
    assert one == {"accuracy": 1, "macro_f1": 1, "micro_f1": 1, "weighted_f1": 1}
    none_named = multi_label_scores(np.array([[0, 0]]), np.array([[-1.0, 1.0]]), cut=0.0)
    assert none_named == {"macro_f1": 0, "micro_f1": 0, "weighted_f1": 0, "accuracy": 0}
    assert number_scores(np.array([2.0]), np.array([1.0])) == {"mse": 1, "mae": 1}


def test_correlations_are_of_values_and_of_ranks() -> None:
    scores = number_scores(np.array([1.0, 2.0, 3.0]), np.array([1.0, 10.0, 100.0]))
    assert scores["spearman"] == pytest.approx(1.0)
    assert 0 < scores["pearson"] < 0.95
    assert scores["mae"] == pytest.approx((0 + 8 + 97) / 3)
    assert "pearson" not in number_scores(np.array([1.0, 2.0, 3.0]), np.ones(3))


def test_the_best_cut_has_the_best_micro_f1_of_all() -> None:
    chance = np.random.default_rng(3)
    marks = (chance.random((40, 5)) < 0.3).astype(int)
    logits = chance.normal(size=marks.shape) + 1.5 * marks - 2
    best = multi_label_scores(marks, logits, cut=best_cut(marks, logits))["micro_f1"]
    others = [multi_label_scores(marks, logits, cut=cut)["micro_f1"] for cut in logits.ravel()]
    assert best == pytest.approx(max(others))
    assert best > multi_label_scores(marks, logits, cut=0.0)["micro_f1"]
    assert best_cut(np.zeros((2, 2)), np.ones((2, 2))) == 0.0
    all_marks, logits = np.ones((1, 2)), np.array([[60.0, 70.0]])
    cut = best_cut(all_marks, logits)
    assert multi_label_scores(all_marks, logits, cut=cut)["micro_f1"] == 1.0


def test_a_class_counts_from_the_threshold_on(tmp_path: Path) -> None:
    measured = _measured(tmp_path, logits=[[0.5, -2.0], [-0.5, 2.0]], labels=[[1, 0], [0, 1]])
    assert MultiLabelJudge(("a", "b"), 0.5).scores(measured)["accuracy"] == 1.0
    assert MultiLabelJudge(("a", "b"), 0.3).scores(measured)["accuracy"] == 0.5  # -0.5 is 0.38


def test_the_threshold_chosen_on_the_evaluation_rows_is_used_for_the_test(tmp_path: Path) -> None:
    judge = MultiLabelJudge(("a", "b"), "auto")
    logits = [[-1.0, -3.0], [-3.0, -1.5]]
    evaluated = judge.scores(_measured(tmp_path / "eval", logits=logits, labels=[[1, 0], [0, 1]]))
    assert evaluated["micro_f1"] == 1.0
    assert evaluated["threshold"] == pytest.approx(1 / (1 + np.exp(2.25)))  # -2.25 is half-way
    test = _measured(
        tmp_path / "test",
        logits=[[-2.2, -2.3]],
        labels=[[1, 0]],
        split="test",
        evaluated=evaluated,
    )
    assert judge.scores(test)["accuracy"] == 1.0
    assert list(judge.predictions(test)) == [
        {"labels": ["a"], "scores": [pytest.approx(1 / (1 + np.exp(2.2)))]}
    ]
    assert judge.details(test)["threshold"] == pytest.approx(evaluated["threshold"])


def test_each_class_has_a_line_also_if_no_row_has_it() -> None:
    table = class_table(np.array([0, 0, 1]), np.array([0, 1, 1]), classes=("a", "b", "c"))
    assert table == [
        {"label": "a", "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2},
        {"label": "b", "precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1},
        {"label": "c", "precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0},
    ]


def test_confusions_are_a_matrix_or_the_most_frequent_ones() -> None:
    truth, guesses = np.array([0, 0, 0, 1]), np.array([0, 1, 1, 0])
    assert confusions(truth, guesses, classes=("a", "b")) == {
        "labels": ["a", "b"],
        "matrix": [[1, 2], [1, 0]],
    }
    many = tuple(str(number) for number in range(101))
    assert confusions(truth, guesses, classes=many) == {
        "most_frequent": [
            {"label": "0", "guess": "1", "count": 2},
            {"label": "1", "guess": "0", "count": 1},
        ]
    }
    chance = np.random.default_rng(0)
    drawn = chance.integers(101, size=(2, 3000))
    assert len(confusions(*drawn, classes=many)["most_frequent"]) == 200


def test_predictions_say_the_answer_to_each_row(tmp_path: Path) -> None:
    one = _measured(tmp_path / "one", logits=[[0.0, np.log(3)]], labels=[0])
    assert list(SingleLabelJudge(("a", "b")).predictions(one)) == [
        {"label": "b", "score": pytest.approx(0.75)}
    ]
    details = SingleLabelJudge(("a", "b")).details(one)
    assert details["confusion"]["matrix"] == [[0, 1], [0, 0]]
    number = _measured(tmp_path / "number", logits=[[1.5]], labels=[2.0])
    assert list(RegressionJudge().predictions(number)) == [{"number": 1.5}]
