"""Which rows of the training file are held out, when a spec says so by a fraction.

Rows are lined up group by group, a group being the rows that name the same classes, and of the line
every tenth (for a share of 0.1) is held out. So the share holds within each group to less than a
row, and over any number of groups that are too small for a row of their own, as multi-label ones.
"""

import random
from array import array

import numpy as np

from trainer_core.rows.classes import Codes, Mask, RowClasses

TRAIN, EVAL, TEST = 0, 1, 2

_ROWS_AT_ONCE = 1 << 14


def assign_splits(classes: RowClasses, *, eval_share: float, test_share: float, seed: int) -> bytes:
    """Return the split of each row, one byte a row: TRAIN, EVAL or TEST.

    A class is never held out whole: a model can't be measured on what it was never shown.

    Args:
        classes: the class labels of each row; empty for rows without any.
        eval_share: fraction of the rows to hold out for evaluation, in [0, 1).
        test_share: the same for the test.
        seed: the same seed, shares and classes give the same splits, in every version: a stored
            job goes on with the rows that it had.
    """
    splits = np.zeros(len(classes), dtype=np.uint8)
    if eval_share or test_share:
        lined_up = _lined_up(classes, seed=seed)
        splits[lined_up[_is_every(len(lined_up), share=eval_share)]] = EVAL
        rest = lined_up[splits[lined_up] == TRAIN]
        splits[rest[_is_every(len(rest), share=test_share / (1 - eval_share))]] = TEST
        _return_unseen(splits, classes)
    return splits.tobytes()


def _lined_up(classes: RowClasses, *, seed: int) -> Codes:
    """Return the rows that may be held out, in groups; both are in an order of chance."""
    group_of_row, members = _groups(classes)
    rows = np.argsort(group_of_row, kind="stable").astype(np.int32)
    ends = np.cumsum(np.bincount(group_of_row, minlength=len(members)))
    labels = classes.labels
    num_rows_naming = np.bincount(classes.codes, minlength=len(labels))
    may_spare = [
        group for group, codes in enumerate(members) if all(num_rows_naming[c] > 1 for c in codes)
    ]  # else training needs the row
    by_name = sorted(may_spare, key=lambda group: sorted(labels[c] for c in members[group]))
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    chance.shuffle(by_name)
    line = array("i")
    for group in by_name:
        start = ends[group - 1] if group else 0
        shuffled = array("i", rows[start : ends[group]].tobytes())
        chance.shuffle(shuffled)
        line.extend(shuffled)
    return np.array(line, dtype=np.int32)


def _groups(classes: RowClasses) -> tuple[Codes, list[tuple[int, ...]]]:
    """Return the group of each row, and the labels of each group."""
    if classes.width == 0:
        return np.zeros(len(classes), dtype=np.int32), [()]
    if classes.width == 1:
        return classes.codes, [(code,) for code in range(len(classes.labels))]
    numbers: dict[tuple[int, ...], int] = {}
    groups = array("i")
    for codes in classes.rows():
        groups.append(numbers.setdefault(tuple(sorted(codes)), len(numbers)))
    return np.frombuffer(groups, dtype=np.int32), list(numbers)


def _is_every(count: int, *, share: float) -> Mask:
    """Return a mask of a share of so many rows, as evenly spread as can be."""
    marks = np.empty(count, dtype=np.bool_)
    for start in range(0, count, _ROWS_AT_ONCE):
        end = min(start + _ROWS_AT_ONCE, count)
        marks[start:end] = np.diff(np.floor(np.arange(start, end + 1) * share + 0.5)) > 0
    return marks


def _return_unseen(
    splits: "np.ndarray[tuple[int], np.dtype[np.uint8]]", classes: RowClasses
) -> None:
    """Give held-out rows back to training where they name a class that no training row names."""
    seen = classes.seen(splits == TRAIN)
    if len(seen) == len(classes.labels):
        return
    for row, codes in enumerate(classes.rows()):
        if splits[row] != TRAIN and not seen.issuperset(codes):
            splits[row] = TRAIN
            seen.update(codes)
