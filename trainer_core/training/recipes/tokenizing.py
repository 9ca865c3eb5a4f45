"""From the rows of a job to their tokens on disk, whatever the task."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer_core.errors import TooFewRows
from trainer_core.events import Logged, Phase, Warned
from trainer_core.rows.checking import MIN_TRAIN_ROWS, all_rows
from trainer_core.training.data.caching import Entry
from trainer_core.training.data.columns import StoredColumn
from trainer_core.training.data.keys import tokens_key
from trainer_core.training.data.tokens import ROWS_PER_BATCH, RowsWriter, TokenizedRows, TokenRow
from trainer_core.training.process import processes
from trainer_core.training.process.clock import PhaseProgress
from trainer_core.training.recipes.recipe import Setup

# A batch of rows to their tokens, which may be more or fewer rows. What happens to rows on the way
# is counted under a name, such as "truncated", and told from these counts: of rows whose tokens are
# kept from an earlier run, nothing else is known.
EncodeRows = Callable[[Sequence[Any], Counter[str]], Iterable[TokenRow]]


@dataclass(frozen=True, slots=True)
class Tokenized:
    """The rows of a split as tokens, and what happened to them on the way."""

    rows: TokenizedRows
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Written:
    """Where the tokens of all splits are."""

    folder: Path
    columns: Mapping[str, Mapping[str, StoredColumn]]  # split -> name -> column
    counts: Mapping[str, Mapping[str, int]]


def tokenize_splits(
    setup: Setup,
    *,
    columns: Mapping[str, type],
    encode: EncodeRows,
    counted: Sequence[str] = ("input_ids",),
) -> dict[str, Tokenized]:
    """Return the tokens of every split that has rows, from the cache if they are there.

    Args:
        setup: whose rows, tokenizer and spec; nothing else may change what `encode` returns.
        columns: name -> numpy type of each array that `encode` yields of a row.
        encode: yields `input_ids` and the other columns of each row.
        counted: columns whose lengths together are a row's, by which rows share a batch.
    """
    made = _find_or_write(setup, columns, encode) if processes.is_first() else None
    written = processes.of_first(made)
    assert written is not None, "the first process has written it"
    return {
        split: Tokenized(
            TokenizedRows.written(written.folder, split=split, columns=stored, counted=counted),
            Counter(written.counts[split]),
        )
        for split, stored in written.columns.items()
    }


def tell_left_out(
    setup: Setup,
    tokenized: Mapping[str, Tokenized],
    *,
    why: str,
    hint: str,
    param: str,
    what: str = "rows",
) -> None:
    """Report rows that were counted and not kept.

    Args:
        setup: whose rows.
        tokenized: by split, with `rows` among its counts.
        why: what such a row lacks, after "are left out:".
        hint: what to do.
        param: pointer to the field to change.
        what: is left out, if it is made of rows.

    Raises:
        TooFewRows: a split has no others.
    """
    for split, tokens in tokenized.items():
        num_rows = tokens.counts["rows"]
        num_left_out = num_rows - len(tokens.rows)
        if num_left_out == num_rows:
            message = f"all {num_rows} {split} {what} are left out: {why}."
            raise TooFewRows(message, hint=hint, param=param)
        if num_left_out:
            message = f"{num_left_out} of {num_rows} {split} {what} are left out: {why}."
            setup.reporter.report(Warned("rows_left_out", message, hint))


def check_blocks(tokenized: Tokenized, *, size: int | str, param: str) -> None:
    """Raise TooFewRows for training texts that were joined and fill too few blocks.

    Args:
        tokenized: the training rows.
        size: tokens of a block.
        param: pointer to the field that had them joined.
    """
    num_blocks = len(tokenized.rows)
    if num_blocks < MIN_TRAIN_ROWS:
        raise TooFewRows(
            f"the training texts fill {num_blocks} blocks of {size} tokens; at least "
            f"{MIN_TRAIN_ROWS} are needed.",
            hint=f"Lower max_length, add rows, or set {param.strip('/')} to false.",
            param=param,
            detail={"num_rows": num_blocks, "min_rows": MIN_TRAIN_ROWS},
        )


def tell_lost_turns(setup: Setup, tokenized: Mapping[str, Tokenized]) -> None:
    """Report chats, counted as `chats_with_lost_turns`, of which turns are not learnt."""
    for split, tokens in tokenized.items():
        if number := tokens.counts["chats_with_lost_turns"]:
            message = (
                f"in {number} of {tokens.counts['rows']} {split} chats the model's chat template "
                "changes earlier turns, so that not all of the assistant's are learnt."
            )
            hint = "Set chat_template to 'chatml', or give one answer a row."
            setup.reporter.report(Warned("turns_not_learnt", message, hint))


def _find_or_write(setup: Setup, columns: Mapping[str, type], encode: EncodeRows) -> _Written:
    cache = setup.cache
    key = cache.claim(tokens_key(setup.spec, setup.files, model=setup.base.path, columns=columns))
    if entry := cache.find(key):
        written = _of_entry(entry)
        num_rows = {
            split: stored["input_ids"].num_rows for split, stored in written.columns.items()
        }
        what = ", ".join(f"{number} {split}" for split, number in num_rows.items())
        setup.reporter.report(
            Logged(f"the tokens of {what} rows are taken from the cache", {"num_rows": num_rows})
        )
        return written
    with cache.adding(key) as draft:
        written = _write(setup, draft.folder, columns=columns, encode=encode)
        draft.values["counts"] = written.counts
        draft.values["columns"] = {
            split: {name: column.to_dict() for name, column in stored.items()}
            for split, stored in written.columns.items()
        }
    entry = cache.find(key)
    assert entry is not None, f"{key} was just written"
    return _of_entry(entry)


def _of_entry(entry: Entry) -> _Written:
    columns = {
        split: {name: StoredColumn.from_dict(values) for name, values in stored.items()}
        for split, stored in entry.values["columns"].items()
    }
    return _Written(entry.folder, columns, entry.values["counts"])


def _write(
    setup: Setup, folder: Path, *, columns: Mapping[str, type], encode: EncodeRows
) -> _Written:
    """Tokenize all rows into a folder; each file of rows is read once."""
    splits = [split for split, num_rows in setup.found.num_rows.items() if num_rows]
    counts: dict[str, Counter[str]] = {split: Counter() for split in splits}
    waiting: dict[str, list[Any]] = {split: [] for split in splits}
    stored = _narrower(setup)
    progress = PhaseProgress(setup.reporter, Phase.TOKENIZING, sum(setup.found.num_rows.values()))
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(
                RowsWriter(folder, split=split, columns=columns, stored=stored)
            )
            for split in splits
        }

        def encode_waiting(split: str) -> None:
            for row in encode(waiting[split], counts[split]):
                writers[split].add(row)
            waiting[split] = []

        for number, (split, row) in enumerate(all_rows(setup.found, setup.files)):
            waiting[split].append(row)
            if len(waiting[split]) == ROWS_PER_BATCH:
                encode_waiting(split)
                progress.tell(number)
        for split in splits:
            if waiting[split]:
                encode_waiting(split)
    return _Written(folder, {split: writer.columns for split, writer in writers.items()}, counts)


def _narrower(setup: Setup) -> Mapping[str, type]:
    """Return in what to keep columns, where that is less than they are read as."""
    ids = setup.base.tokenizer.get_vocab().values()
    return {"input_ids": np.uint16} if max(ids, default=0) < 1 << 16 else {}
