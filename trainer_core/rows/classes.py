"""The class labels of rows as small numbers: four bytes a row, however long a label is."""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]


class RowClasses:
    """The class labels that each row names, in file order, each once a row."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._codes = array("i")  # of all rows end to end
        self._num_rows = 0
        # How many labels a row has: one number while all rows have as many, else one a row.
        self._width = 0
        self._widths: array[int] | None = None

    @classmethod
    def of(cls, rows: Iterable[Sequence[str]]) -> Self:
        """Return the labels of rows as they are given."""
        classes = cls()
        for labels in rows:
            classes.add(labels)
        return classes

    def add(self, labels: Sequence[str]) -> None:
        """Append a row."""
        numbers = self._numbers
        codes = [numbers.setdefault(label, len(numbers)) for label in labels]
        if len(codes) > 1:
            codes = list(dict.fromkeys(codes))
        if not self._num_rows:
            self._width = len(codes)
        elif self._widths is None and len(codes) != self._width:
            self._widths = array("i", [self._width]) * self._num_rows
        if self._widths is not None:
            self._widths.append(len(codes))
        self._codes.extend(codes)
        self._num_rows += 1

    def __len__(self) -> int:
        return self._num_rows

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label, by its number."""
        return tuple(self._numbers)

    @property
    def codes(self) -> Codes:
        """The numbers of the labels, those of all rows end to end."""
        return _viewed(self._codes)

    @property
    def width(self) -> int | None:
        """How many labels every row has; None if not all have as many."""
        return self._width if self._widths is None else None

    def count(self, is_row: Mask) -> Counter[str]:
        """Return how many of the marked rows name each label; none that no row names."""
        counts = np.bincount(self._codes_of(is_row), minlength=len(self._numbers)).tolist()
        return Counter(
            {label: counts[code] for label, code in self._numbers.items() if counts[code]}
        )

    def seen(self, is_row: Mask) -> set[int]:
        """Return the numbers of the labels that some marked row names."""
        return set(np.unique(self._codes_of(is_row)).tolist())

    def rows(self) -> Iterator[tuple[int, ...]]:
        """Yield the numbers of the labels of each row."""
        start = 0
        for row in range(self._num_rows):
            end = start + (self._width if self._widths is None else self._widths[row])
            yield tuple(self._codes[start:end])
            start = end

    def _codes_of(self, is_row: Mask) -> Codes:
        widths = self._width if self._widths is None else _viewed(self._widths)
        return self.codes[np.repeat(is_row, widths)]


def _viewed(values: "array[int]") -> Codes:
    return np.frombuffer(values, dtype=np.int32) if values else np.empty(0, np.int32)
