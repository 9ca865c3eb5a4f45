"""Which rows of the training file are held out, when a spec says so by a fraction."""

import random
from collections import defaultdict
from collections.abc import Sequence

TRAIN, EVAL, TEST = 0, 1, 2


def assign_splits(
    classes: Sequence[tuple[str, ...]], *, eval_share: float, test_share: float, seed: int
) -> bytes:
    """Return the split of each row, one byte a row: TRAIN, EVAL or TEST.

    Rows are held out class by class, so that shares hold within each class, and a class is never
    held out whole: a model can't be measured on what it was never shown.

    Args:
        classes: the class labels of each row; empty for rows without any.
        eval_share: fraction of the rows to hold out for evaluation, in [0, 1).
        test_share: the same for the test.
        seed: the same seed, shares and classes give the same splits.
    """
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for row, labels in enumerate(classes):
        groups[labels].append(row)
    splits = bytearray(len(classes))
    carried = {EVAL: 0.0, TEST: 0.0}  # what rounding owes from the groups before
    for labels in sorted(groups):
        rows = groups[labels]
        chance.shuffle(rows)
        num_rows = len(rows)
        free = num_rows - 1 if labels else num_rows
        for split, share in ((EVAL, eval_share), (TEST, test_share)):
            owed = num_rows * share + carried[split]
            taken = min(free, round(owed))
            carried[split] = owed - taken
            for _ in range(taken):
                splits[rows.pop()] = split
            free -= taken
    _return_unseen(splits, classes)
    return bytes(splits)


def _return_unseen(splits: bytearray, classes: Sequence[tuple[str, ...]]) -> None:
    """Give held-out rows back to training where they name a class that no training row names."""
    seen = {label for row, labels in enumerate(classes) if splits[row] == TRAIN for label in labels}
    for row, labels in enumerate(classes):
        if splits[row] != TRAIN and not seen.issuperset(labels):
            splits[row] = TRAIN
            seen.update(labels)
