"""From the rows of a split to their tokens on disk, whatever the task."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer_core.rows.checking import rows_of
from trainer_core.training import processes
from trainer_core.training.recipe import Setup
from trainer_core.training.tokens import (
    ROWS_PER_BATCH,
    Array,
    RowsWriter,
    TokenizedRows,
    TokenRow,
    batched,
    written_rows,
)

# A batch of rows to their tokens, which may be more or fewer rows. What happens to rows on the way
# is counted under a name, such as "truncated".
EncodeRows = Callable[[Sequence[Any], Counter[str]], Iterable[TokenRow]]


@dataclass(frozen=True, slots=True)
class Tokenized:
    """The rows of a split as tokens, and what happened to them on the way."""

    rows: TokenizedRows
    counts: Mapping[str, int]


def tokenize(
    setup: Setup,
    split: str,
    *,
    columns: Mapping[str, type],
    encode: EncodeRows,
    counted: Sequence[str] = ("input_ids",),
) -> Tokenized:
    """Return the rows of a split as tokens.

    Args:
        setup: whose rows, tokenizer and spec; nothing else may change what `encode` returns.
        split: which rows.
        columns: name -> numpy type of each array that `encode` yields of a row.
        encode: yields `input_ids` and the other columns of each row.
        counted: columns whose lengths together are a row's, by which rows share a batch.
    """
    counts: Counter[str] = Counter()
    lengths: dict[str, Array] = {}
    if processes.is_first():
        with RowsWriter(setup.cache, split=split, columns=columns) as writer:
            for row in _encoded(setup, split, encode=encode, counts=counts):
                writer.add(row)
        lengths = writer.lengths()
    lengths, counts = processes.of_first((lengths, counts))
    return Tokenized(
        written_rows(setup.cache, split=split, columns=columns, lengths=lengths, counted=counted),
        counts,
    )


def _encoded(
    setup: Setup, split: str, *, encode: EncodeRows, counts: Counter[str]
) -> Iterator[TokenRow]:
    rows = rows_of(setup.found, split, setup.files)
    for batch in batched(rows, size=ROWS_PER_BATCH):
        yield from encode(batch, counts)


def tokenize_splits(
    setup: Setup,
    *,
    columns: Mapping[str, type],
    encode: EncodeRows,
    counted: Sequence[str] = ("input_ids",),
) -> dict[str, Tokenized]:
    """Return the tokens of every split that has rows."""
    return {
        split: tokenize(setup, split, columns=columns, encode=encode, counted=counted)
        for split, num_rows in setup.found.num_rows.items()
        if num_rows
    }
