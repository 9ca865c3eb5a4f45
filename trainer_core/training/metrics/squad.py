"""How an answer is compared with the right ones: SQuAD's measures (Rajpurkar et al. 2016, 2018).

Upper case, punctuation, articles and white space do not count.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def score_answers(guesses: Sequence[str], answers: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return the mean F1 and share of exact matches, in [0, 1], of guesses at questions.

    Apart for questions with and without an answer, where there are any: `has_answer_f1`,
    `no_answer_accuracy`.

    Args:
        guesses: one a question; empty for none.
        answers: the right ones of each question; empty for none.
    """
    pairs = list(zip(guesses, answers, strict=True))
    f1 = [best_f1(guess, texts) for guess, texts in pairs]
    of_answered = [score for score, texts in zip(f1, answers, strict=True) if texts]
    of_others = [score for score, texts in zip(f1, answers, strict=True) if not texts]
    scores = {
        "f1": f1,
        "exact_match": [exact_match(guess, texts) for guess, texts in pairs],
        "has_answer_f1": of_answered,
        "no_answer_accuracy": of_others,
    }
    return {name: fmean(values) for name, values in scores.items() if values}


def exact_match(guess: str, answers: Sequence[str]) -> float:
    """Return 1 if the guess is one of the answers, else 0; no answers are one that is empty."""
    return float(any(_words(guess) == _words(answer) for answer in answers or [""]))


def best_f1(guess: str, answers: Sequence[str]) -> float:
    """Return the F1 of the guess's words with those of the closest answer."""
    return max(_f1(_words(guess), _words(answer)) for answer in answers or [""])


def _words(text: str) -> list[str]:
    bare = text.lower().translate(_WITHOUT_PUNCTUATION)
    return _ARTICLE.sub(" ", bare).split()


def _f1(guess: Sequence[str], answer: Sequence[str]) -> float:
    if not guess or not answer:  # as SQuAD 2 has it: nothing matches nothing alone
        return float(guess == answer)
    num_common = (Counter(guess) & Counter(answer)).total()
    return 2 * num_common / (len(guess) + len(answer))
