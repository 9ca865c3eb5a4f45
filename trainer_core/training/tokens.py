"""Tokenized rows: encoded in batches, kept in flat memory-mapped files, one array a column.

A list of dicts of lists costs about a hundred times the memory of the tokens in it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from trainer_core.errors import UnusableModel

Array = npt.NDArray[Any]
TokenRow = dict[str, Array]

ROWS_PER_BATCH = 1000  # rows tokenized at once: enough to keep the tokenizer's threads busy

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Encoded:
    """The tokens of one text or pair of texts."""

    ids: Sequence[int]
    type_ids: Sequence[int]  # which of the two texts a token is of
    is_truncated: bool = False


@dataclass(frozen=True, slots=True)
class RaggedColumn:
    """Rows of different length, end to end."""

    values: Array
    offsets: npt.NDArray[np.int64]  # where each row starts, and where the last one ends

    def __getitem__(self, row: int) -> Array:
        return self.values[self.offsets[row] : self.offsets[row + 1]]


class TokenizedRows(Dataset[TokenRow]):
    """Rows ready to be collated. `input_ids` is always there, and its lengths are known."""

    def __init__(
        self, columns: Mapping[str, RaggedColumn], *, counted: Sequence[str] = ("input_ids",)
    ) -> None:
        self._columns = dict(columns)
        self._counted = counted
        # Tokens of each row: those of the columns that the model reads or writes.
        self.lengths = np.sum([np.diff(self._columns[name].offsets) for name in counted], axis=0)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> TokenRow:
        return {name: column[row] for name, column in self._columns.items()}

    @property
    def num_source_rows(self) -> int:
        """Rows of the file that these are made of: a column `row` says which, if one is several."""
        source = self._columns.get("row")
        return len(self) if source is None else len(np.unique(source.values))

    def values(self, column: str) -> Array:
        """Return the values of a column, those of all rows end to end."""
        return self._columns[column].values

    def with_column(self, name: str, values: Array) -> "TokenizedRows":
        """Return the rows with one more column, whose values are (rows, values of a row)."""
        offsets = np.arange(len(self) + 1) * values.shape[1]
        columns = {**self._columns, name: RaggedColumn(values.reshape(-1), offsets)}
        return TokenizedRows(columns, counted=self._counted)


def written_rows(
    folder: Path,
    *,
    split: str,
    columns: Mapping[str, type],
    lengths: Mapping[str, Array],
    counted: Sequence[str] = ("input_ids",),
) -> TokenizedRows:
    """Return rows that a `RowsWriter` has written, here or in another process.

    Args:
        folder: where.
        split: of the writer.
        columns: of the writer.
        lengths: how many values each row has, by column.
        counted: columns whose lengths together are a row's.
    """
    found = {
        name: _column(_path(folder, split, name), np.dtype(dtype), lengths[name])
        for name, dtype in columns.items()
    }
    return TokenizedRows(found, counted=counted)


def _path(folder: Path, split: str, column: str) -> Path:
    return folder / f"{split}.{column}.bin"


def _column(path: Path, dtype: np.dtype[Any], lengths: Array) -> RaggedColumn:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    if not offsets[-1]:  # an empty file can't be mapped
        return RaggedColumn(np.empty(0, dtype=dtype), offsets)
    return RaggedColumn(np.memmap(path, dtype=dtype, mode="r"), offsets)


@dataclass(slots=True)
class _ColumnFile:
    dtype: np.dtype[Any]
    file: IO[bytes]
    lengths: list[int] = field(default_factory=list)

    def add(self, values: Array) -> None:
        self.file.write(np.ascontiguousarray(values, dtype=self.dtype).tobytes())
        self.lengths.append(len(values))


class RowsWriter:
    """Writes tokenized rows to `folder/split.column.bin`, row by row."""

    def __init__(
        self,
        folder: Path,
        *,
        split: str,
        columns: Mapping[str, type],
        counted: Sequence[str] = ("input_ids",),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._split, self._columns = folder, split, columns
        self._counted = counted
        self._files = {
            name: _ColumnFile(np.dtype(dtype), _path(folder, split, name).open("wb"))
            for name, dtype in columns.items()
        }

    def add(self, row: Mapping[str, Array]) -> None:
        """Append a row; it has exactly the columns announced."""
        for name, file in self._files.items():
            file.add(row[name])

    def rows(self) -> TokenizedRows:
        """Return what was written; the writer is closed."""
        return written_rows(
            self._folder,
            split=self._split,
            columns=self._columns,
            lengths=self.lengths(),
            counted=self._counted,
        )

    def lengths(self) -> dict[str, Array]:
        """Return how many values each row has, by column."""
        return {
            name: np.asarray(file.lengths, dtype=np.int64) for name, file in self._files.items()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for file in self._files.values():
            file.file.close()


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


def encode(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str | tuple[str, str]],
    *,
    max_length: int,
) -> list[Encoded]:
    """Return the tokens of texts, or of pairs of texts, with the tokenizer's special tokens.

    The longer text of a pair is cut first.
    """
    encode_batch = _batch_encoder(tokenizer)
    encoded = encode_batch(texts, None)
    long_ones = [number for number, row in enumerate(encoded) if len(row.ids) > max_length]
    cut_ones = encode_batch([texts[number] for number in long_ones], max_length)
    for number, row in zip(long_ones, cut_ones, strict=True):
        encoded[number] = Encoded(row.ids, row.type_ids, is_truncated=True)
    return encoded


_BatchEncoder = Callable[[Sequence[str | tuple[str, str]], int | None], list[Encoded]]


def _batch_encoder(tokenizer: PreTrainedTokenizerBase) -> _BatchEncoder:
    if not tokenizer.is_fast:
        return lambda texts, max_length: [_encode_slowly(tokenizer, t, max_length) for t in texts]
    backend: Any = tokenizer.backend_tokenizer

    def encode_batch(
        texts: Sequence[str | tuple[str, str]], max_length: int | None
    ) -> list[Encoded]:
        backend.no_padding()
        if max_length is None:
            backend.no_truncation()
        else:
            backend.enable_truncation(max_length, strategy="longest_first")
        rows = backend.encode_batch(list(texts), add_special_tokens=True)
        backend.no_truncation()
        return [Encoded(row.ids, row.type_ids) for row in rows]

    return encode_batch


def _encode_slowly(
    tokenizer: PreTrainedTokenizerBase, text: str | tuple[str, str], max_length: int | None
) -> Encoded:
    first, second = (text, None) if isinstance(text, str) else text
    row = tokenizer(
        first,
        second,
        truncation="longest_first" if max_length is not None else False,
        max_length=max_length,
        return_token_type_ids=True,
        verbose=False,
    )
    ids = row["input_ids"]
    return Encoded(ids, row.get("token_type_ids") or [0] * len(ids))
