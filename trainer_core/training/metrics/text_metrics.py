"""ROUGE, BLEU, chrF and exact matches of written texts, by the libraries that papers cite.

ROUGE (rouge-score) and exact matches are shares, 0 to 1; BLEU and chrF (sacrebleu) are 0 to 100.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import Literal

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

# latin: mostly letters of a to z; spaced: others, with spaces between words; unspaced: without.
Script = Literal["latin", "spaced", "unspaced"]

_ROUGE_TYPES = {
    "rouge_l": "rougeL",
    "rouge_1": "rouge1",
    "rouge_2": "rouge2",
    "rouge_lsum": "rougeLsum",
}
_LATIN = re.compile(r"[A-Za-z]")
# Thai, Lao, Tibetan, Burmese, Khmer, kana, Han.
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)


def count_letters(text: str) -> dict[str, int]:
    """Return how many letters a text has, and how many of the scripts that are told apart."""
    return {
        "letters": sum(map(str.isalpha, text)),
        "latin_letters": len(_LATIN.findall(text)),
        "unspaced_letters": len(_UNSPACED.findall(text)),
    }


def script_of(counts: Mapping[str, int]) -> Script:
    """Return the script of most letters that `count_letters` counted; latin if there are none."""
    if 2 * counts["unspaced_letters"] > counts["letters"]:
        return "unspaced"
    return "latin" if 2 * counts["latin_letters"] >= counts["letters"] else "spaced"


class ScriptTokenizer:
    """Words between spaces and punctuation; where words have no spaces, each letter is one.

    rouge-score's own keeps a to z and digits alone, so that other texts have no words.
    """

    def tokenize(self, text: str) -> list[str]:
        return "".join(self._separated(text.lower())).split()

    def _separated(self, text: str) -> Iterator[str]:
        for character in text:
            if _UNSPACED.match(character):
                yield f" {character} "
            else:
                is_word = unicodedata.category(character)[0] in "LMN"
                yield character if is_word else " "


def rouge_scores(
    texts: Sequence[str], references: Sequence[str], *, script: Script
) -> dict[str, float]:
    """Return the mean F1 of ROUGE-L, -1, -2 and -Lsum, whose sentences end at line breaks."""
    tokenizer = None if script == "latin" else ScriptTokenizer()
    scorer = RougeScorer(list(_ROUGE_TYPES.values()), use_stemmer=False, tokenizer=tokenizer)
    scores = [scorer.score(*pair) for pair in zip(references, texts, strict=True)]
    return {
        name: float(np.mean([score[kind].fmeasure for score in scores]))
        for name, kind in _ROUGE_TYPES.items()
    }


def rouge_signature(script: Script) -> str:
    """Return how ROUGE is computed, for whoever compares it."""
    tokens = "a-z0-9" if script == "latin" else "unicode"
    return f"rouge-score {metadata.version('rouge-score')}, F1, no stemmer, tokens: {tokens}"


def translation_scores(
    texts: Sequence[str], references: Sequence[str], *, script: Script, language: str | None
) -> dict[str, float]:
    """Return BLEU, chrF and the share of exact matches."""
    bleu, chrf = _bleu(script, language), CHRF()
    pairs = zip(texts, references, strict=True)
    return {
        "bleu": float(bleu.corpus_score(texts, [references]).score),
        "chrf": float(chrf.corpus_score(texts, [references]).score),
        "exact_match": float(np.mean([text.strip() == wanted.strip() for text, wanted in pairs])),
    }


def translation_signatures(*, script: Script, language: str | None) -> dict[str, str]:
    """Return sacrebleu's signatures, for whoever compares the figures."""
    metrics = {"bleu": _bleu(script, language), "chrf": CHRF()}
    for metric in metrics.values():
        metric.num_refs = 1  # else known once something was scored
    return {name: str(metric.get_signature()) for name, metric in metrics.items()}


def _bleu(script: Script, language: str | None) -> BLEU:
    if (language or "").startswith("zh"):
        return BLEU(tokenize="zh")
    return BLEU(tokenize="char" if script == "unspaced" else "13a")
