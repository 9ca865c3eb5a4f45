import pytest
from seqeval.metrics import f1_score, precision_score, recall_score

from trainer_core.training.data.tags import (
    Entity,
    entities_of,
    scheme_of,
    stray_tags,
    tag_metrics,
    tag_table,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("classes", "scheme"),
    [
        (["O", "B-PER", "I-PER"], "prefixes"),
        (["B-NP", "I-NP"], "prefixes"),
        (["O", "B-X", "I-X", "L-X", "U-X"], "prefixes"),
        (["O", "PER", "LOC"], "runs"),
        (["O"], "runs"),
        (["NOUN", "VERB"], "words"),
        (["0", "1"], "words"),
    ],
)
def test_the_kind_of_tags_is_told_by_their_names(classes: list[str], scheme: str) -> None:
    assert scheme_of(classes) == scheme
    assert not stray_tags(classes)


def test_a_tag_without_a_prefix_among_prefixed_ones_is_a_stray() -> None:
    assert stray_tags(["O", "B-PER", "I-PER", "LOC"]) == ["LOC"]
    assert not stray_tags(["NN", "B-side"])  # no entities, so nothing is amiss


def test_entities_are_found_by_the_rules_of_each_kind() -> None:
    assert list(entities_of(["B-X", "I-X", "B-X", "O", "I-Y"], scheme="prefixes")) == [
        Entity("X", 0, 1),
        Entity("X", 2, 2),
        Entity("Y", 4, 4),
    ]
    assert list(entities_of(["U-X", "B-Y", "I-Y", "L-Y", "U-Y"], scheme="prefixes")) == [
        Entity("X", 0, 0),
        Entity("Y", 1, 3),
        Entity("Y", 4, 4),
    ]
    assert list(entities_of(["X", "X", "Y-Z", "O", "X"], scheme="runs")) == [
        Entity("X", 0, 1),
        Entity("Y-Z", 2, 2),
        Entity("X", 4, 4),
    ]


TRUTH = [["B-X", "I-X", "O", "B-Y"], ["O", "B-X"]]
GUESSES = [["B-X", "I-X", "O", "B-X"], ["B-X", "O"]]


def test_metrics_of_entities_are_those_of_seqeval() -> None:
    metrics = tag_metrics(TRUTH, GUESSES, scheme="prefixes")
    assert metrics["f1"] == pytest.approx(f1_score(TRUTH, GUESSES)) == pytest.approx(1 / 3)
    assert metrics["precision"] == pytest.approx(precision_score(TRUTH, GUESSES))
    assert metrics["recall"] == pytest.approx(recall_score(TRUTH, GUESSES))
    assert metrics["accuracy"] == pytest.approx(3 / 6)
    plain = [[[tag[2:] or "O" for tag in row] for row in tags] for tags in (TRUTH, GUESSES)]
    assert tag_metrics(plain[0], plain[1], scheme="runs") == metrics  # no two entities touch


def test_each_class_has_a_line_in_the_table() -> None:
    assert tag_table(TRUTH, GUESSES, scheme="prefixes") == [
        {"label": "X", "precision": pytest.approx(1 / 3), "recall": 0.5, "f1": 0.4, "support": 2},
        {"label": "Y", "precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1},
    ]
    words = tag_table([["N", "V"]], [["N", "O"]], scheme="words")
    assert [(line["label"], line["f1"], line["support"]) for line in words] == [
        ("N", 1.0, 1),
        ("O", 0.0, 0),
        ("V", 0.0, 1),
    ]


def test_classes_of_words_count_alike_however_rare() -> None:
    truth, guesses = [["N"] * 8 + ["V"] * 2], [["N"] * 9 + ["V"]]
    metrics = tag_metrics(truth, guesses, scheme="words")
    assert metrics["f1"] == pytest.approx((2 * 8 / 17 + 2 / 3) / 2)
    assert metrics["accuracy"] == pytest.approx(0.9)


def test_rows_without_an_entity_have_figures_too() -> None:
    metrics = tag_metrics([["O"]], [["O"]], scheme="prefixes")
    assert metrics == {"f1": 0.0, "precision": 0.0, "recall": 0.0, "accuracy": 1.0}
    assert tag_table([["O"]], [["O"]], scheme="prefixes") == []
