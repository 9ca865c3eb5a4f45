"""Columns of tokenized rows on disk: the values of all rows end to end, and how many each row has.

    train.input_ids.bin      values, as narrow as they fit
    train.input_ids.lengths  int32 a row; not there if all rows have as many values

A row is read with one call, in place of mapping the file: pages of a mapped file count as this
process's memory from when they are touched, so that in an epoch all of it would. It takes as long
as slicing np.memmap does (3 microseconds a row, conversion included); giving mapped pages back
after every 64 rows took 5.
"""

import os
from array import array
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Self
from weakref import finalize

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Offsets = npt.NDArray[np.int64]
Lengths = npt.NDArray[np.int32]

_ROWS_AT_ONCE = 1000  # written together
_VALUES_AT_ONCE = 1 << 20  # read together


@dataclass(frozen=True, slots=True)
class StoredColumn:
    """What a column's files hold; JSON-ready."""

    dtype: str  # of the values as they are read
    stored: str  # of the values in the file
    num_rows: int
    num_values: int
    width: int | None  # values that every row has; None where a file of lengths says

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Return the description that `asdict` gave."""
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return asdict(self)


class ColumnWriter:
    """Writes a column, row by row."""

    def __init__(self, path: Path, *, dtype: np.dtype[Any], stored: np.dtype[Any]) -> None:
        self._path = path
        self._dtype = dtype
        self._stored = stored
        self._file = _open_private(path)
        self._pending: list[Array] = []
        self._lengths = array("i")
        self._num_values = 0

    def add(self, values: Array) -> None:
        """Append a row."""
        self._pending.append(values)
        if len(self._pending) == _ROWS_AT_ONCE:
            self._flush()

    def close(self) -> StoredColumn:
        """Write what is left and say what there is."""
        self._flush()
        self._file.close()
        lengths = np.frombuffer(self._lengths, dtype=np.int32) if self._lengths else np.empty(0)
        width = int(lengths[0]) if len(lengths) and (lengths == lengths[0]).all() else None
        if width is None:
            with _open_private(lengths_path(self._path)) as file:
                file.write(self._lengths)
        return StoredColumn(
            dtype=self._dtype.name,
            stored=self._stored.name,
            num_rows=len(self._lengths),
            num_values=self._num_values,
            width=width,
        )

    def abandon(self) -> None:
        """Close the file, whatever it holds."""
        self._file.close()

    def _flush(self) -> None:
        if not self._pending:
            return
        values = np.concatenate(self._pending)
        stored = values.astype(self._stored, copy=False)
        if self._stored != self._dtype:
            assert (stored == values).all(), f"{self._path.name}: values beyond {self._stored.name}"
        self._file.write(stored.data)
        self._lengths.extend(map(len, self._pending))
        self._num_values += len(values)
        self._pending = []


def lengths_path(path: Path) -> Path:
    """Return where the lengths of a column are, whose values are at `path`."""
    return path.with_suffix(".lengths")


def read_lengths(path: Path, stored: StoredColumn) -> Lengths:
    """Return how many values each row has."""
    if stored.width is not None:
        return np.full(stored.num_rows, stored.width, dtype=np.int32)
    return np.fromfile(lengths_path(path), dtype=np.int32)


def offsets_of(lengths: Lengths) -> Offsets:
    """Return where each row starts, and where the last one ends."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


class Column:
    """A column to read, row by row.

    Loader workers may share it after a fork: a read does not move the file's position. It stays
    readable when its file is removed.
    """

    def __init__(self, path: Path, stored: StoredColumn, *, offsets: Offsets | None) -> None:
        """Open a column.

        Args:
            path: where the values are.
            stored: what they are.
            offsets: where each row starts; None where all rows have as many values.
        """
        self._path = path
        self._described = stored
        self._offsets = offsets
        self._open()

    def _open(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDONLY)
        finalize(self, os.close, self._descriptor)
        self._stored = np.dtype(self._described.stored)
        self._size = self._stored.itemsize
        self._dtype = np.dtype(self._described.dtype)
        self._is_narrow = self._stored != self._dtype
        # A view of it gives Python's integers, in a third of the time.
        offsets: Any = self._offsets
        self._starts = None if offsets is None else memoryview(offsets)

    def __getitem__(self, row: int) -> Array:
        if self._starts is None:
            width = self._described.width or 0
            start, end = row * width, (row + 1) * width
        else:
            start, end = self._starts[row], self._starts[row + 1]
        return self._read(start, end)

    def all(self) -> Array:
        """Return the values of all rows, end to end."""
        blocks = range(0, self._described.num_values, _VALUES_AT_ONCE)
        values = np.empty(self._described.num_values, dtype=self._dtype)
        for start in blocks:
            end = min(start + _VALUES_AT_ONCE, len(values))
            values[start:end] = self._read(start, end)
        return values

    def _read(self, start: int, end: int) -> Array:
        size = self._size
        data = os.pread(self._descriptor, (end - start) * size, start * size)
        assert len(data) == (end - start) * size, f"{self._path.name} is cut off"
        values: Array = np.frombuffer(data, self._stored)
        return values.astype(self._dtype) if self._is_narrow else values

    def __getstate__(self) -> tuple[Path, StoredColumn, Offsets | None]:  # for spawned workers
        return self._path, self._described, self._offsets

    def __setstate__(self, state: tuple[Path, StoredColumn, Offsets | None]) -> None:
        self._path, self._described, self._offsets = state
        self._open()


class HeldColumn:
    """A column in memory, whose rows have as many values each."""

    def __init__(self, values: Array) -> None:
        """Take (rows, values of a row)."""
        self._values = values

    def __getitem__(self, row: int) -> Array:
        values: Array = self._values[row]
        return values

    def all(self) -> Array:
        """Return the values of all rows, end to end."""
        return self._values.reshape(-1)


def _open_private(path: Path) -> IO[bytes]:
    """Open a file for writing that no other user may read, whatever the umask."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
