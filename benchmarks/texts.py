"""Texts to measure on: repeatable, with the length and the words' frequencies of real ones.

The number of words is log-normal, as that of support messages and reviews; words follow Zipf's law.
One word in nine is made of syllables, so that tokenizers have to take words apart.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_SYLLABLES = "an ba con der el fi ga ho in ja ker lo man ner or pe qui ra sta ter un ver xe yo zi"
_COMMON = """
the of and to a in is it you that he was for on are with as his they be at one have this from or
had by not word but what some we can out other were all there when up use your how said an each
she which do their time if will way about many then them write would like so these her long make
thing see him two has look more day could go come did number sound no most people my over know
water than call first who may down side been now find any new work part take get place made live
where after back little only round man year came show every good me give our under name very
through just form sentence great think say help low line differ turn cause much mean before move
right boy old too same tell does set three want air well also play small end put home read hand
port large card order account payment refund delivery address transfer cancel support please
waiting
"""
_NUM_WORDS = 500
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
    words = np.array(_vocabulary())
    shares = 1 / np.arange(1, len(words) + 1)
    bounds = np.cumsum(shares / shares.sum())
    for _ in range(count):
        num_words = max(1, round(float(chance.lognormal(np.log(median_words), sigma))))
        drawn = words[np.searchsorted(bounds, chance.random(num_words))].tolist()
        yield _punctuated(drawn, chance)


def write_rows(path: Path, count: int, *, seed: int, num_classes: int = 10, **shape: float) -> None:
    """Write texts with a label each as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for number, text in enumerate(texts(count, seed=seed, **shape)):
            label = f"class {number % num_classes}"
            file.write(json.dumps({"text": text, "label": label}) + "\n")


def _vocabulary() -> list[str]:
    """Return the common words, and behind them rare ones made of syllables."""
    chance = np.random.default_rng(0)  # the same words for every seed of texts
    syllables = _SYLLABLES.split()
    rare = ("".join(chance.choice(syllables, chance.integers(2, 5))) for _ in range(2 * _NUM_WORDS))
    return list(dict.fromkeys([*_COMMON.split(), *rare]))[:_NUM_WORDS]


def _punctuated(words: list[str], chance: np.random.Generator) -> str:
    ends = np.flatnonzero(chance.random(len(words)) < 1 / 12)
    for end in {*ends.tolist(), len(words) - 1}:
        words[end] += _MARKS[int(chance.integers(len(_MARKS)))]
    words[0] = words[0].capitalize()
    return " ".join(words)
