"""Tags of words, the entities that they say, and the figures that the field gives for them.

Three kinds of tags are told apart by the classes' names:

    B-PER I-PER O      entities by prefixes: BIO, BIOES, BILOU
    PER PER O          no prefixes: a run of the same class is one entity
    NOUN VERB DET      no prefixes and no `O`: each word is judged by itself
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from seqeval.metrics.sequence_labeling import get_entities
from seqeval.metrics.sequence_labeling import precision_recall_fscore_support as score_entities
from sklearn.metrics import accuracy_score
from sklearn.metrics import precision_recall_fscore_support as score_words

from trainer_core.spec.tasks.token_classification import OUTSIDE

Scheme = Literal["prefixes", "runs", "words"]
Tags = Sequence[Sequence[str]]  # of each word, row by row

_PREFIXED = re.compile(r"[BIESLU]-.")
_AS_BIOES = {"L": "E", "U": "S"}  # BILOU's names, which seqeval does not know


def scheme_of(classes: Sequence[str]) -> Scheme:
    """Return how the tags of a job say where an entity is."""
    named = [name for name in classes if name != OUTSIDE]
    if named and all(_PREFIXED.match(name) for name in named):
        return "prefixes"
    return "runs" if OUTSIDE in classes else "words"


def stray_tags(classes: Sequence[str]) -> list[str]:
    """Return the tags without a prefix among tags that have one, where that can't be meant."""
    named = [name for name in classes if name != OUTSIDE]
    strays = [name for name in named if not _PREFIXED.match(name)]
    return strays if OUTSIDE in classes and len(strays) < len(named) else []


@dataclass(frozen=True, slots=True)
class Entity:
    """Words that are one thing."""

    label: str
    first: int  # number of the first word
    last: int


def entities_of(tags: Sequence[str], *, scheme: Scheme) -> Iterator[Entity]:
    """Yield the entities of a row, by the rules of the conlleval script."""
    for label, first, last in get_entities(_for_seqeval([tags], scheme)[0]):
        yield Entity(label, int(first), int(last))


def tag_metrics(truth: Tags, guesses: Tags, *, scheme: Scheme) -> dict[str, float]:
    """Return precision, recall, F1 and the share of words that are right.

    Over entities, all alike (micro), where exact bounds and class count. Of tags that name no
    entities, the unweighted mean over the classes that some word has (macro).
    """
    if scheme == "words":
        labels = sorted(set(_flat(truth)))
        scores: Any = score_words(
            _flat(truth), _flat(guesses), labels=labels, average="macro", zero_division=0
        )
    else:
        expected, found = (_for_seqeval(tags, scheme) for tags in (truth, guesses))
        scores = score_entities(expected, found, average="micro", zero_division=0)
    precision, recall, f1, _ = scores
    return {
        "f1": float(f1),
        "precision": float(precision),
        "recall": float(recall),
        "accuracy": float(accuracy_score(_flat(truth), _flat(guesses))),
    }


def tag_table(truth: Tags, guesses: Tags, *, scheme: Scheme) -> list[dict[str, Any]]:
    """Return precision, recall, F1 and support of each class that is in the rows or was guessed."""
    if scheme == "words":
        labels = sorted({*_flat(truth), *_flat(guesses)})
        scores: Any = score_words(_flat(truth), _flat(guesses), labels=labels, zero_division=0)
    else:
        expected, found = (_for_seqeval(tags, scheme) for tags in (truth, guesses))
        labels = sorted({label for label, *_ in get_entities(expected) + get_entities(found)})
        scores = score_entities(expected, found, zero_division=0)
    names = ("precision", "recall", "f1", "support")
    columns = [column.tolist() for column in scores]
    return [
        {"label": label, **dict(zip(names, row, strict=True))}
        for label, *row in zip(labels, *columns, strict=True)
    ]


def _flat(tags: Tags) -> list[str]:
    return [tag for row in tags for tag in row]


def _for_seqeval(tags: Tags, scheme: Scheme) -> list[list[str]]:
    if scheme == "prefixes":
        return [[_AS_BIOES.get(tag[0], tag[0]) + tag[1:] for tag in row] for row in tags]
    return [[tag if tag == OUTSIDE else f"I-{tag}" for tag in row] for row in tags]
