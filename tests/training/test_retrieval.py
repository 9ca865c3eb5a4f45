import numpy as np
import pytest

from trainer_core.training.recipes.retrieval import retrieve

pytestmark = pytest.mark.slow


def _unit(degrees: list[float]) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_ranks_are_counted_by_hand() -> None:
    # Documents at 0, 10, 30 and 90 degrees; the first query is nearest to its own, the second
    # has one of its two documents first and the other third, the third comes last of all.
    anchors = [b"a", b"b", b"b", b"c"]
    found, ranks = retrieve(
        anchors, [b"p0", b"p10", b"p90", b"p30"], _unit([1, 12, 12, -80]), _unit([0, 10, 90, 30])
    )
    assert ranks.tolist() == [1, 1, 4, 3]
    assert found.num_queries == 3
    assert found.recall_at(1) == pytest.approx((1 + 0.5 + 0) / 3)
    assert found.recall_at(3) == pytest.approx((1 + 0.5 + 1) / 3)
    assert found.recall_at(5) == 1.0
    assert found.mean_reciprocal_rank() == pytest.approx((1 + 1 + 1 / 3) / 3)


def test_the_same_text_counts_once_and_is_right_for_each_row_that_has_it() -> None:
    found, ranks = retrieve(
        [b"a", b"b", b"a"], [b"p", b"p", b"p"], _unit([0, 5, 0]), _unit([20, 20, 20])
    )
    assert ranks.tolist() == [1, 1, 1]
    assert (found.num_queries, len(found.queries)) == (2, 2)


def test_vectors_of_one_direction_find_nothing() -> None:
    texts = [str(number).encode() for number in range(50)]
    same = np.ones((50, 4), dtype=np.float32)
    found, ranks = retrieve(texts, [b"p" + text for text in texts], same, same)
    assert sorted(ranks.tolist()) == list(range(1, 51))
    assert found.recall_at(1) == pytest.approx(1 / 50)


def test_few_scores_at_once_give_the_same_ranks() -> None:
    chance = np.random.default_rng(1)
    anchors, positives = chance.normal(size=(2, 300, 8)).astype(np.float32)
    texts = [str(number).encode() for number in chance.integers(0, 200, 300)]
    names = [str(number).encode() for number in chance.integers(0, 250, 300)]
    whole = retrieve(texts, names, anchors, positives)[1]
    parts = retrieve(texts, names, anchors, positives, max_scores=1000)[1]
    assert whole.tolist() == parts.tolist()
