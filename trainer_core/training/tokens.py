"""Tokenized rows: encoded in batches, kept on disk, one array a column.

A list of dicts of lists costs about a hundred times the memory of the tokens in it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from trainer_core.training.columns import (
    Column,
    ColumnWriter,
    Offsets,
    StoredColumn,
    offsets_of,
    read_lengths,
)
from trainer_core.training.words import WordTokens

Array = npt.NDArray[Any]
TokenRow = dict[str, Array]

ROWS_PER_BATCH = 1000  # rows tokenized at once: enough to keep the tokenizer's threads busy

T = TypeVar("T")


class Encoded:
    """The tokens of one text or pair of texts."""

    __slots__ = ("_type_ids", "ids", "is_truncated")

    def __init__(
        self, ids: Array, *, type_ids: Callable[[], Sequence[int]] | None, is_truncated: bool
    ) -> None:
        self.ids = ids
        self._type_ids = type_ids  # asked for where a model takes them; None for all 0
        self.is_truncated = is_truncated

    @property
    def type_ids(self) -> Array:
        """Which of the two texts each token is of."""
        if self._type_ids is None:
            return np.zeros(len(self.ids), dtype=np.int8)
        return np.array(self._type_ids(), dtype=np.int8)


class TokenizedRows(Dataset[TokenRow]):
    """Rows ready to be collated. `input_ids` is always there, and its lengths are known."""

    def __init__(self, folder: Path, *, split: str, columns: Mapping[str, StoredColumn]) -> None:
        """Open the rows that a RowsWriter wrote; they stay readable when the folder is removed."""
        lengths = read_lengths(_path(folder, split, "input_ids"), columns["input_ids"])
        self.lengths: Array = lengths  # tokens of each row
        own = offsets_of(lengths)
        self._columns = {
            name: Column(path, stored, offsets=_offsets(path, stored, own=own))
            for name, stored in columns.items()
            for path in [_path(folder, split, name)]
        }

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> TokenRow:
        return {name: column[row] for name, column in self._columns.items()}

    def values(self, column: str) -> Array:
        """Return the values of a column, those of all rows end to end."""
        return self._columns[column].all()


def _offsets(path: Path, stored: StoredColumn, *, own: Offsets) -> Offsets | None:
    """Return where the rows of a column start, the same array for columns of the same lengths."""
    if stored.width is not None:
        return None
    offsets = offsets_of(read_lengths(path, stored))
    return own if np.array_equal(own, offsets) else offsets


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
        return TokenizedRows(self._folder, split=self._split, columns=self.columns)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.columns = {name: writer.close() for name, writer in self._writers.items()}
        else:
            for writer in self._writers.values():
                writer.abandon()


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
    if not tokenizer.is_fast:
        return [_encode_slowly(tokenizer, text, max_length=max_length) for text in texts]
    backend: Tokenizer = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    single = [text for text in texts if isinstance(text, str)]
    if len(single) == len(texts) and (words := _words_of(tokenizer, single)):
        return [
            Encoded(ids, type_ids=None, is_truncated=is_truncated)
            for ids, is_truncated in words.encode(single, max_length=max_length)
        ]
    return _encode_whole(backend, texts, max_length=max_length)


# The words of each tokenizer, for as long as it lives and takes no tokens more.
_known_words: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[int, WordTokens | None]]
_known_words = WeakKeyDictionary()


def _words_of(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> WordTokens | None:
    num_tokens, words = _known_words.get(tokenizer, (-1, None))
    if num_tokens != len(tokenizer):
        words = WordTokens.of(tokenizer.backend_tokenizer, texts)
        _known_words[tokenizer] = (len(tokenizer), words)
    return words


def _encode_whole(
    backend: Tokenizer, texts: Sequence[str | tuple[str, str]], *, max_length: int
) -> list[Encoded]:
    # Nobody asks where in the text a token stands, which takes a fifth of the time to find out.
    encoded = [_encoded(row) for row in backend.encode_batch_fast(list(texts))]
    long_ones = [number for number, row in enumerate(encoded) if len(row.ids) > max_length]
    if long_ones:
        backend.enable_truncation(max_length, strategy="longest_first")
        cut_ones = backend.encode_batch_fast([texts[number] for number in long_ones])
        backend.no_truncation()
        for number, row in zip(long_ones, cut_ones, strict=True):
            encoded[number] = _encoded(row, is_truncated=True)
    return encoded


def _encoded(row: Any, *, is_truncated: bool = False) -> Encoded:
    ids = np.array(row.ids, dtype=np.int32)
    return Encoded(ids, type_ids=lambda: row.type_ids, is_truncated=is_truncated)


def _encode_slowly(
    tokenizer: PreTrainedTokenizerBase, text: str | tuple[str, str], *, max_length: int
) -> Encoded:
    first, second = (text, None) if isinstance(text, str) else text
    whole, row = (
        tokenizer(
            first,
            second,
            truncation="longest_first" if is_cut else False,
            max_length=max_length if is_cut else None,
            return_token_type_ids=True,
            verbose=False,
        )
        for is_cut in (False, True)
    )
    ids = np.array(row["input_ids"], dtype=np.int32)
    type_ids = row.get("token_type_ids")
    return Encoded(
        ids,
        type_ids=(lambda: type_ids) if type_ids else None,
        is_truncated=len(whole["input_ids"]) > max_length,
    )
