"""Which rows of the training file are held out, when a spec says so by a fraction.

Rows are lined up group by group, a group being the rows that name the same classes, and of the line
every tenth (for a share of 0.1) is held out. So the share holds within each group to less than a
row, and over any number of groups that are too small for a row of their own, as multi-label ones.
"""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

TRAIN, EVAL, TEST = 0, 1, 2


def assign_splits(
    classes: Sequence[tuple[str, ...]], *, eval_share: float, test_share: float, seed: int
) -> bytes:
    """Return the split of each row, one byte a row: TRAIN, EVAL or TEST.

    A class is never held out whole: a model can't be measured on what it was never shown.

    Args:
        classes: the class labels of each row; empty for rows without any.
        eval_share: fraction of the rows to hold out for evaluation, in [0, 1).
        test_share: the same for the test.
        seed: the same seed, shares and classes give the same splits.
    """
    splits = bytearray(len(classes))
    lined_up = _lined_up(classes, seed=seed)
    for row in _every(lined_up, share=eval_share):
        splits[row] = EVAL
    rest = [row for row in lined_up if splits[row] == TRAIN]
    for row in _every(rest, share=test_share / (1 - eval_share)):
        splits[row] = TEST
    _return_unseen(splits, classes)
    return bytes(splits)


def _lined_up(classes: Sequence[tuple[str, ...]], *, seed: int) -> list[int]:
    """Return the rows that may be held out, in groups; both are in an order of chance."""
    count = Counter(label for labels in classes for label in set(labels))
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for row, labels in enumerate(classes):
        if all(count[label] > 1 for label in labels):  # else training needs it
            groups[tuple(sorted(set(labels)))].append(row)
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    names = sorted(groups)
    chance.shuffle(names)
    for name in names:
        chance.shuffle(groups[name])
    return [row for name in names for row in groups[name]]


def _every(rows: Sequence[int], *, share: float) -> Iterable[int]:
    """Return a share of the rows, as evenly spread as can be."""
    return (
        row
        for number, row in enumerate(rows)
        if math.floor((number + 1) * share + 0.5) > math.floor(number * share + 0.5)
    )


def _return_unseen(splits: bytearray, classes: Sequence[tuple[str, ...]]) -> None:
    """Give held-out rows back to training where they name a class that no training row names."""
    seen = {label for row, labels in enumerate(classes) if splits[row] == TRAIN for label in labels}
    for row, labels in enumerate(classes):
        if splits[row] != TRAIN and not seen.issuperset(labels):
            splits[row] = TRAIN
            seen.update(labels)
