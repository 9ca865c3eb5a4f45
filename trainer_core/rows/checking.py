"""Whether the rows of a job can be trained on, decided before anything is trained.

`survey` reads every file once and either says what is there or raises the error that names the
file, the line, the column and the fix. `all_rows` then yields the rows, each with its split.
Neither holds more of a row than a few bytes.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, repeat

import numpy as np

from trainer_core.errors import (
    DataError,
    InvalidRows,
    RowProblem,
    TooFewRows,
    UnseenLabel,
)
from trainer_core.rows.classes import Mask, RowClasses
from trainer_core.rows.files import InputFile
from trainer_core.rows.fitting import Usable, fitted_rows, raw_rows
from trainer_core.rows.reading import Row as RawRow
from trainer_core.rows.splitting import EVAL, TEST, TRAIN, assign_splits
from trainer_core.spec import JobSpec, Row

MIN_TRAIN_ROWS = 10
MAX_PROBLEMS = 100  # bad rows told one by one; the rest are counted
MAX_CLASSES = 50_000  # more are texts in the wrong column
SPLITS = {"train": TRAIN, "eval": EVAL, "test": TEST}
_NAMES = {number: name for name, number in SPLITS.items()}


@dataclass(frozen=True, slots=True)
class Survey:
    """What the rows of a job hold."""

    spec: JobSpec  # with the columns decided
    num_rows: Mapping[str, int]  # usable rows a split
    num_skipped: int  # bad rows left out, by the spec's wish
    classes: tuple[str, ...]  # class labels in order, empty for a task without classes
    class_counts: Mapping[str, Mapping[str, int]]  # rows naming a class, a split
    held_out: bytes  # the split of each usable row of the training file


RowWatch = Callable[[str, Usable], None]


@dataclass(slots=True)
class _Read:
    """What reading one file brought."""

    watch: Callable[[Usable], None] | None = None
    classes: RowClasses = field(default_factory=RowClasses)
    first_lines: dict[str, int] = field(default_factory=dict)  # on which a label is first named
    problems: list[RowProblem] = field(default_factory=list)
    num_problems: int = 0

    def add_problem(self, problem: RowProblem) -> None:
        self.num_problems += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)


def survey(spec: JobSpec, files: Mapping[str, InputFile]) -> Survey:
    """Return what the rows hold.

    Args:
        spec: what the job says of its rows.
        files: the file of each split that has one of its own; `train` always.

    Raises:
        DataError: one of its kinds, naming file, line, column and fix.
    """
    found, problems = look_through(spec, files)
    if problems:
        raise problems[0]
    assert found is not None, "nothing was found, and nobody knows why"
    return found


def look_through(
    spec: JobSpec, files: Mapping[str, InputFile], *, watch: RowWatch | None = None
) -> tuple[Survey | None, list[DataError]]:
    """Return what the rows hold, and everything that is wrong with them, the gravest first.

    Bad rows are left out of what is found. Nothing is found where a file can't be read at all.

    Args:
        spec: what the job says of its rows.
        files: as for `survey`.
        watch: is shown each usable row, under the split whose file it is in.
    """
    read = {split: _Read(watch and partial(watch, split)) for split in files}
    unread: dict[str, DataError] = {}
    for split, file in sorted(files.items(), key=lambda item: item[0] != "train"):
        try:
            spec = _read_file(spec, split, file, part=read[split])
        except DataError as error:
            unread[split] = error
    num_bad, refusal = _bad_rows(spec, [read[split] for split in files if split not in unread])
    if unread:
        return None, [*unread.values(), *refusal]
    found = _found(spec, read, num_bad=num_bad)
    if len(found.classes) > MAX_CLASSES:
        return None, [_too_many_classes(found, files), *refusal]
    return found, [*refusal, *_label_problems(found, files, read), *_shortages(found, files)]


def _found(spec: JobSpec, read: Mapping[str, _Read], *, num_bad: int) -> Survey:
    train = read["train"]
    held_out = assign_splits(
        train.classes,
        eval_share=_share(spec.data.eval),
        test_share=_share(spec.data.test),
        seed=spec.training.seed,
    )
    chosen = _chosen(spec, read, held_out)
    counts = {split: classes.count(is_row) for split, (classes, is_row) in chosen.items()}
    return Survey(
        spec=spec,
        num_rows={split: int(is_row.sum()) for split, (_, is_row) in chosen.items()},
        num_skipped=num_bad,
        classes=tuple(sorted(counts["train"], key=_natural)),
        class_counts=counts,
        held_out=held_out,
    )


def _chosen(
    spec: JobSpec, read: Mapping[str, _Read], held_out: bytes
) -> dict[str, tuple[RowClasses, Mask]]:
    """Return the classes in which the rows of each split are, and a mask of its rows there."""
    assigned = np.frombuffer(held_out, dtype=np.uint8)
    chosen = {
        split: (read[split].classes, np.ones(len(read[split].classes), dtype=np.bool_))
        if split in read and split != "train"
        else (read["train"].classes, assigned == number)
        for split, number in SPLITS.items()
    }
    if spec.data.max_eval_rows is not None:
        classes, is_row = chosen["eval"]
        chosen["eval"] = (classes, is_row & (is_row.cumsum() <= spec.data.max_eval_rows))
    return chosen


def all_rows(found: Survey, files: Mapping[str, InputFile]) -> Iterator[tuple[str, Row]]:
    """Yield each usable row with its split, reading each file once and in its order."""
    for split, file in files.items():
        yield from _routed(found, split, file)


def rows_of(found: Survey, split: str, files: Mapping[str, InputFile]) -> Iterator[Row]:
    """Yield the usable rows of a split in file order, as the spec's row type."""
    source = split if split in files else "train"
    return (row for name, row in _routed(found, source, files[source]) if name == split)


def _routed(found: Survey, source: str, file: InputFile) -> Iterator[tuple[str, Row]]:
    """Yield the usable rows of one file, each with its split."""
    usable = _usable(found.spec, source, file)
    limit = found.spec.data.max_eval_rows
    num_eval = 0
    if source == "train":
        splits: Iterator[str] = map(_NAMES.__getitem__, found.held_out)
        pairs = zip(splits, usable, strict=True)
    else:
        pairs = zip(repeat(source), usable, strict=False)
    for split, row in pairs:
        if split == "eval" and limit is not None:
            if num_eval == limit:
                if source == "eval":
                    return
                continue
            num_eval += 1
        yield split, row


def _usable(spec: JobSpec, split: str, file: InputFile) -> Iterator[Row]:
    rows = fitted_rows(spec, split, file, raw_rows(file))
    return (row.row for row in rows if isinstance(row, Usable))


def _read_file(spec: JobSpec, split: str, file: InputFile, *, part: _Read) -> JobSpec:
    """Read a file and return the spec, whose columns the first row of `train` decides."""
    rows = raw_rows(file)
    if split == "train":
        rows = _from_first_row(rows, part)
        first = next(rows, None)
        spec = _fit_columns(spec, first)
        rows = chain([first] if first else [], rows)
    _read(spec, split, file, rows, part=part)
    return spec


def _from_first_row(
    rows: Iterator[RawRow | RowProblem], part: _Read
) -> Iterator[RawRow | RowProblem]:
    """Yield the first good row and all that follow; the bad ones before it go to `part`."""
    for row in rows:
        if isinstance(row, RowProblem):
            part.add_problem(row)
        else:
            yield row
            break
    yield from rows


def _fit_columns(spec: JobSpec, first: RawRow | RowProblem | None) -> JobSpec:
    available = first.values if isinstance(first, RawRow) else ()
    fitted = spec.columns.fitted(available)
    return spec.model_copy(update={"data": spec.data.model_copy(update={"columns": fitted})})


def _read(
    spec: JobSpec,
    split: str,
    file: InputFile,
    rows: Iterator[RawRow | RowProblem],
    *,
    part: _Read,
) -> None:
    for row in fitted_rows(spec, split, file, rows):
        if isinstance(row, RowProblem):
            part.add_problem(row)
            continue
        if part.watch is not None:
            part.watch(row)
        labels = spec.classes_of(row.row)
        part.classes.add(labels)
        for label in labels:
            part.first_lines.setdefault(label, row.line)


def _bad_rows(spec: JobSpec, read: Sequence[_Read]) -> tuple[int, list[DataError]]:
    """Return the number of bad rows, and an error if there may be none."""
    num_bad = sum(part.num_problems for part in read)
    if not num_bad or spec.data.invalid_rows == "skip":
        return num_bad, []
    problems = [problem for part in read for problem in part.problems]
    refusal = InvalidRows(
        problems[:MAX_PROBLEMS],
        total=num_bad,
        hint="Mend these rows, or set data.invalid_rows to 'skip' to leave them out.",
    )
    return num_bad, [refusal]


def _share(source: float | str | None) -> float:
    return source if isinstance(source, float) else 0.0


def _natural(label: str) -> tuple[object, ...]:
    """Sort "2" before "10", and numbers before words."""
    parts = re.split(r"(\d+)", label)
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part)


def _label_problems(
    found: Survey, files: Mapping[str, InputFile], read: Mapping[str, _Read]
) -> Iterator[DataError]:
    if _is_one_class_everywhere(found):
        yield DataError(
            f"every row of {files['train'].name} has the label '{found.classes[0]}'; "
            "there is nothing to tell apart.",
            hint="Add rows of at least one other label.",
            param=found.spec.label_column,
        )
    for split, file in files.items():
        unseen = read[split].first_lines.keys() - set(found.classes)
        if unseen:  # the first row that names one
            line, label = min((read[split].first_lines[label], label) for label in unseen)
            yield UnseenLabel(
                f"label '{label}' in {file.name}, line {line} is in no training row.",
                hint=f"Add rows with it to {files['train'].name}, or mend or remove the rows "
                f"of {file.name} that have it.",
                param=found.spec.label_column,
                detail={"file": file.name, "line": line, "label": label, "split": split},
            )


def _too_many_classes(found: Survey, files: Mapping[str, InputFile]) -> DataError:
    return DataError(
        f"the rows of {files['train'].name} have {len(found.classes):,} different labels in "
        f"'{found.spec.label_column}'; at most {MAX_CLASSES:,} can be told apart.",
        hint="Set data.columns.label to the column that holds the labels.",
        param=found.spec.label_column,
        detail={"num_labels": len(found.classes), "max_labels": MAX_CLASSES},
    )


def _is_one_class_everywhere(found: Survey) -> bool:
    counts = found.class_counts["train"]  # a multi-label row may name none
    return len(counts) == 1 and set(counts.values()) == {found.num_rows["train"]}


def _shortages(found: Survey, files: Mapping[str, InputFile]) -> Iterator[DataError]:
    num_train = found.num_rows["train"]
    name = files["train"].name
    if num_train < MIN_TRAIN_ROWS:
        yield TooFewRows(
            f"{name} leaves {num_train} rows to train on; at least {MIN_TRAIN_ROWS} are needed.",
            hint="Add rows.",
            param="data.train",
            detail={"num_rows": num_train, "min_rows": MIN_TRAIN_ROWS},
        )
    for split in ("eval", "test"):
        if getattr(found.spec.data, split) is not None and not found.num_rows[split]:
            yield TooFewRows(
                f"no row is left for data.{split} ({getattr(found.spec.data, split)} of {name}).",
                hint=f"Add rows, raise the fraction, or set data.{split} to null.",
                param=f"data.{split}",
            )
