"""Tokenized rows: kept on disk, one array a column, and read when they are asked for.

A list of dicts of lists costs about a hundred times the memory of the tokens in it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from trainer_core.errors import UnusableModel
from trainer_core.training.data.columns import (
    Column,
    ColumnWriter,
    HeldColumn,
    Offsets,
    StoredColumn,
    offsets_of,
    read_lengths,
)

Array = npt.NDArray[Any]
TokenRow = dict[str, Array]

ROWS_PER_BATCH = 1000  # rows tokenized at once: enough to keep the tokenizer's threads busy

T = TypeVar("T")


class TokenizedRows(Dataset[TokenRow]):
    """Rows ready to be collated. `input_ids` is always there, and its lengths are known."""

    def __init__(self, columns: Mapping[str, Column | HeldColumn], *, lengths: Array) -> None:
        """Take columns of as many rows.

        Args:
            columns: by name.
            lengths: tokens of each row: those of the columns that the model reads or writes.
        """
        self._columns = dict(columns)
        self.lengths = lengths

    @classmethod
    def written(
        cls,
        folder: Path,
        *,
        split: str,
        columns: Mapping[str, StoredColumn],
        counted: Sequence[str] = ("input_ids",),
    ) -> Self:
        """Open rows that a `RowsWriter` wrote, here or in another process.

        They stay readable when the folder is removed.

        Args:
            folder: where.
            split: of the writer.
            columns: what the writer says that it wrote.
            counted: columns whose lengths together are a row's.
        """
        lengths = {
            name: read_lengths(_path(folder, split, name), stored)
            for name, stored in columns.items()
        }
        shared: dict[bytes, Offsets] = {}  # columns of the same lengths have the same offsets
        opened = {}
        for name, stored in columns.items():
            offsets = None
            if stored.width is None:
                known = lengths[name].tobytes()
                offsets = shared.setdefault(known, offsets_of(lengths[name]))
            opened[name] = Column(_path(folder, split, name), stored, offsets=offsets)
        total = lengths[counted[0]]
        for name in counted[1:]:
            total = total + lengths[name]
        return cls(opened, lengths=total)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> TokenRow:
        return {name: column[row] for name, column in self._columns.items()}

    @property
    def num_source_rows(self) -> int:
        """Rows of the file that these are made of: a column `row` says which, if one is several."""
        source = self._columns.get("row")
        return len(self) if source is None else len(np.unique(source.all()))

    def values(self, column: str) -> Array:
        """Return the values of a column, those of all rows end to end."""
        return self._columns[column].all()

    def with_column(self, name: str, values: Array) -> "TokenizedRows":
        """Return the rows with one more column, whose values are (rows, values of a row)."""
        return TokenizedRows({**self._columns, name: HeldColumn(values)}, lengths=self.lengths)


def _path(folder: Path, split: str, column: str) -> Path:
    return folder / f"{split}.{column}.bin"


class RowsWriter:
    """Writes tokenized rows to files of a folder, row by row."""

    def __init__(
        self,
        folder: Path,
        *,
        split: str,
        columns: Mapping[str, type],
        stored: Mapping[str, type] | None = None,
    ) -> None:
        """Begin the rows of a split.

        Args:
            folder: where the files go.
            split: first part of their names.
            columns: name -> numpy type of each array of a row, as it is read.
            stored: narrower types to keep some of them in.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._split = split
        self._writers = {
            name: ColumnWriter(
                _path(folder, split, name),
                dtype=np.dtype(dtype),
                stored=np.dtype((stored or {}).get(name, dtype)),
            )
            for name, dtype in columns.items()
        }
        self.columns: dict[str, StoredColumn] = {}  # what was written, once it is

    def add(self, row: Mapping[str, Array]) -> None:
        """Append a row; it has exactly the columns announced."""
        for name, writer in self._writers.items():
            writer.add(row[name])

    def rows(self) -> TokenizedRows:
        """Return what was written; the writer is closed."""
        return TokenizedRows.written(self._folder, split=self._split, columns=self.columns)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.columns = {name: writer.close() for name, writer in self._writers.items()}
        finally:
            for writer in self._writers.values():
                writer.abandon()


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id of the padding token, which becomes the end token where there is none.

    Raises:
        UnusableModel: there is no end token either.
    """
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise UnusableModel("the model's tokenizer has neither a padding nor an end token.")
        tokenizer.pad_token = tokenizer.eos_token
    assert isinstance(tokenizer.pad_token_id, int), "set above"
    return tokenizer.pad_token_id


def batched(items: Iterable[T], *, size: int) -> Iterator[list[T]]:
    """Yield lists of up to `size` items."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
