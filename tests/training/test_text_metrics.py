"""ROUGE, BLEU and chrF against values worked out by hand."""

import math

import pytest

from trainer_core.training.metrics.text_metrics import (
    Script,
    ScriptTokenizer,
    count_letters,
    rouge_scores,
    rouge_signature,
    script_of,
    translation_scores,
    translation_signatures,
)


def test_rouge_is_the_mean_f1_of_shared_words_pairs_and_sequences() -> None:
    texts = ["the cat sat on a mat", "dogs"]
    references = ["the cat on the mat", "cats"]
    found = rouge_scores(texts, references, script="latin")
    # The first pair shares the, cat, on, mat of 6 and 5 words, in order; the pair "the cat" of 5
    # and 4. The second pair shares nothing.
    f1, pairs = 2 * 4 / (6 + 5), 2 * 1 / (5 + 4)
    assert found == pytest.approx(
        {"rouge_l": f1 / 2, "rouge_1": f1 / 2, "rouge_2": pairs / 2, "rouge_lsum": f1 / 2}
    )


def test_rouge_lsum_takes_lines_for_sentences() -> None:
    found = rouge_scores(["b c\na"], ["a\nb c"], script="latin")
    assert found["rouge_lsum"] == pytest.approx(1.0)
    assert found["rouge_l"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("text", "reference", "script", "expected"),
    [
        ("Кошка сидит.", "кошка лежит", "spaced", 0.5),
        ("हिन्दी भाषा।", "हिन्दी", "spaced", 2 / 3),
        ("猫坐着", "猫躺着", "unspaced", 2 / 3),
    ],
)
def test_rouge_knows_words_of_other_scripts(
    text: str, reference: str, script: Script, expected: float
) -> None:
    assert script_of(count_letters(reference)) == script
    assert rouge_scores([text], [reference], script=script)["rouge_1"] == pytest.approx(expected)
    assert rouge_scores([text], [reference], script="latin")["rouge_1"] == 0.0


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("L'été à la mer", "latin"),
        ("42 %", "latin"),
        ("日本の猫 (cat)", "unspaced"),
        ("한국어 말", "spaced"),
    ],
)
def test_the_script_is_that_of_most_letters(text: str, script: Script) -> None:
    assert script_of(count_letters(text)) == script


def test_words_of_two_scripts_are_told_apart() -> None:
    assert ScriptTokenizer().tokenize("GPU上の猫-2") == ["gpu", "上", "の", "猫", "2"]


def test_bleu_is_that_of_the_equation() -> None:
    texts, references = ["the cat sat on the mat"], ["the cat sat on the old mat"]
    found = translation_scores(texts, references, script="latin", language=None)
    # Papineni et al. 2002, eq. 3: 6 of 6 words, 4 of 5 pairs, 3 of 4 triples, 2 of 3 fours.
    precision = (6 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** (1 / 4)
    assert found["bleu"] == pytest.approx(100 * math.exp(1 - 7 / 6) * precision)
    assert found["exact_match"] == 0.0
    assert 60 < found["chrf"] < 100


def test_what_is_the_same_is_worth_everything() -> None:
    texts = ["It is a small red house.", "Yes "]
    found = translation_scores(texts, [texts[0], "Yes"], script="latin", language=None)
    assert found == pytest.approx({"bleu": 100.0, "chrf": 100.0, "exact_match": 1.0})


def test_signatures_name_tokens_and_version() -> None:
    found = {
        key: translation_signatures(script=script, language=language)["bleu"]
        for key, script, language in (
            ("french", "latin", "fra_Latn"),
            ("japanese", "unspaced", "jpn_Jpan"),
            ("chinese", "unspaced", "zho_Hans"),
        )
    }
    assert "nrefs:1|" in found["french"]
    tokens = {key: signature.split("tok:")[1].split("|")[0] for key, signature in found.items()}
    assert tokens == {"french": "13a", "japanese": "char", "chinese": "zh"}
    assert "no stemmer" in rouge_signature("latin")
