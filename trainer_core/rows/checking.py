"""Whether the rows of a job can be trained on, decided before anything is trained.

`survey` reads every row once and either says what is there or raises the error that names the
file, the line, the column and the fix. `rows_of` then yields the rows of one split.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from trainer_core.errors import (
    DataError,
    InvalidRows,
    RowProblem,
    TooFewRows,
    UnknownColumn,
    UnseenLabel,
)
from trainer_core.rows.files import InputFile
from trainer_core.rows.formats import sniff
from trainer_core.rows.reading import Row as RawRow
from trainer_core.rows.reading import read_rows
from trainer_core.rows.splitting import EVAL, TEST, TRAIN, assign_splits
from trainer_core.spec import JobSpec, Row

MIN_TRAIN_ROWS = 10
MAX_PROBLEMS = 100  # bad rows told one by one; the rest are counted
SPLITS = {"train": TRAIN, "eval": EVAL, "test": TEST}


@dataclass(frozen=True, slots=True)
class Survey:
    """What the rows of a job hold."""

    spec: JobSpec  # with the columns decided
    num_rows: Mapping[str, int]  # usable rows a split
    num_skipped: int  # bad rows left out, by the spec's wish
    classes: tuple[str, ...]  # class labels in order, empty for a task without classes
    class_counts: Mapping[str, Mapping[str, int]]  # rows naming a class, a split
    held_out: bytes  # the split of each usable row of the training file


@dataclass(slots=True)
class _Read:
    """What reading one file brought."""

    classes: list[tuple[str, ...]] = field(default_factory=list)  # of each usable row
    lines: list[int] = field(default_factory=list)
    problems: list[RowProblem] = field(default_factory=list)
    num_problems: int = 0


def survey(spec: JobSpec, files: Mapping[str, InputFile]) -> Survey:
    """Return what the rows hold.

    Args:
        spec: what the job says of its rows.
        files: the file of each split that has one of its own; `train` always.

    Raises:
        DataError: one of its kinds, naming file, line, column and fix.
    """
    spec = _fit_columns(spec, files["train"])
    read = {split: _read(spec, split, file) for split, file in files.items()}
    num_bad = sum(part.num_problems for part in read.values())
    if num_bad and spec.data.invalid_rows == "refuse":
        problems = [problem for part in read.values() for problem in part.problems]
        raise InvalidRows(
            problems[:MAX_PROBLEMS],
            total=num_bad,
            hint="Mend these rows, or set data.invalid_rows to 'skip' to leave them out.",
        )
    held_out = assign_splits(
        read["train"].classes,
        eval_share=_share(spec.data.eval),
        test_share=_share(spec.data.test),
        seed=spec.training.seed,
    )
    by_split = {
        split: [
            labels
            for labels, assigned in zip(read["train"].classes, held_out, strict=True)
            if assigned == number
        ]
        for split, number in SPLITS.items()
    }
    by_split |= {split: part.classes for split, part in read.items() if split != "train"}
    if spec.data.max_eval_rows is not None:
        by_split["eval"] = by_split["eval"][: spec.data.max_eval_rows]
    counts = {
        split: Counter(c for labels in rows for c in labels) for split, rows in by_split.items()
    }
    found = Survey(
        spec=spec,
        num_rows={split: len(rows) for split, rows in by_split.items()},
        num_skipped=num_bad,
        classes=tuple(sorted(counts["train"], key=_natural)),
        class_counts=counts,
        held_out=held_out,
    )
    _check_labels(found, files, read)
    _check_enough(found, files)
    return found


def rows_of(found: Survey, split: str, files: Mapping[str, InputFile]) -> Iterator[Row]:
    """Yield the usable rows of a split in file order, as the spec's row type."""
    spec = found.spec
    limit = spec.data.max_eval_rows if split == "eval" else None
    if split in files and split != "train":
        rows = _usable(spec, split, files[split])
    else:
        usable = _usable(spec, "train", files["train"])
        rows = (
            row
            for row, assigned in zip(usable, found.held_out, strict=True)
            if assigned == SPLITS[split]
        )
    for number, row in enumerate(rows):
        if limit is not None and number >= limit:
            return
        yield row.row


@dataclass(frozen=True, slots=True)
class _Usable:
    line: int
    row: Row


def _usable(spec: JobSpec, split: str, file: InputFile) -> Iterator[_Usable]:
    return (row for row in _checked(spec, split, file) if isinstance(row, _Usable))


def _fit_columns(spec: JobSpec, file: InputFile) -> JobSpec:
    first = next((row for row in _raw(file) if isinstance(row, RawRow)), None)
    available = first.values if first else ()
    fitted = spec.columns.fitted(available)
    return spec.model_copy(update={"data": spec.data.model_copy(update={"columns": fitted})})


def _raw(file: InputFile) -> Iterator[RawRow | RowProblem]:
    return read_rows(
        file.path,
        name=file.name,
        file_format=sniff(file.path, name=file.name),
        has_header=file.has_header,
    )


def _read(spec: JobSpec, split: str, file: InputFile) -> _Read:
    part = _Read()
    for row in _checked(spec, split, file):
        if isinstance(row, RowProblem):
            part.num_problems += 1
            if len(part.problems) < MAX_PROBLEMS:
                part.problems.append(row)
        else:
            part.classes.append(spec.classes_of(row.row))
            part.lines.append(row.line)
    return part


def _checked(spec: JobSpec, split: str, file: InputFile) -> Iterator[_Usable | RowProblem]:
    """Yield each row as the spec's row type, or what is wrong with it; each column must exist."""
    roles = spec.columns.mapped()
    row_type = spec.row_type()
    seen: dict[str, None] = {}  # columns in order of appearance
    limit = spec.data.max_train_rows if split == "train" else None
    num_usable = 0
    for raw in _raw(file):
        if isinstance(raw, RowProblem):
            yield raw
            continue
        seen.update(dict.fromkeys(raw.values))
        row = _refused(raw, row_type, file) or _fit_row(raw, row_type, roles, file)
        yield row
        num_usable += isinstance(row, _Usable)
        if num_usable == limit:
            break
    for role, column in roles.items():
        if seen and column not in seen and not spec.columns.may_be_absent(role):
            raise UnknownColumn(
                f"no column '{column}' in {file.name}; it has: {', '.join(seen)}.",
                hint=f"Set data.columns.{role}.",
                param=column,
                detail={"file": file.name, "columns": list(seen), "role": role},
            )


def _refused(raw: RawRow, row_type: type[Row], file: InputFile) -> RowProblem | None:
    for column, reason in row_type.refused_columns.items():
        if raw.values.get(column):
            return RowProblem(file.name, raw.line, column, reason)
    return None


def _fit_row(
    raw: RawRow, row_type: type[Row], roles: Mapping[str, str], file: InputFile
) -> _Usable | RowProblem:
    values = {role: raw.values[column] for role, column in roles.items() if column in raw.values}
    try:
        return _Usable(raw.line, row_type.model_validate(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        column = roles.get(str(first["loc"][0])) if first["loc"] else next(iter(roles.values()))
        return RowProblem(file.name, raw.line, column, _reason(first))


def _reason(item: Any) -> str:
    place = ".".join(str(part) for part in item["loc"][1:])
    prefix = f"{place}: " if place else ""
    if item["type"] == "missing":
        return f"{prefix}is missing"
    if item["input"] is None:
        return f"{prefix}is null"
    if item["type"] in ("string_pattern_mismatch", "string_too_short", "too_short"):
        return f"{prefix}is empty"
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
    shown = item["input"]
    got = f"; got {shown!r}"[:80] if isinstance(shown, str | int | float) else ""
    return f"{prefix}{message}{got}"


def _share(source: float | str | None) -> float:
    return source if isinstance(source, float) else 0.0


def _natural(label: str) -> tuple[object, ...]:
    """Sort "2" before "10", and numbers before words."""
    parts = re.split(r"(\d+)", label)
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part)


def _check_labels(found: Survey, files: Mapping[str, InputFile], read: Mapping[str, _Read]) -> None:
    if _is_one_class_everywhere(found):
        raise DataError(
            f"every row of {files['train'].name} has the label '{found.classes[0]}'; "
            "there is nothing to tell apart.",
            hint="Add rows of at least one other label.",
            param=found.spec.label_column,
        )
    known = set(found.classes)
    for split, file in files.items():
        for line, labels in zip(read[split].lines, read[split].classes, strict=True):
            if unseen := set(labels) - known:
                label = min(unseen)
                raise UnseenLabel(
                    f"label '{label}' in {file.name}, line {line} is in no training row.",
                    hint=f"Add rows with it to {files['train'].name}, or mend or remove the rows "
                    f"of {file.name} that have it.",
                    param=found.spec.label_column,
                    detail={"file": file.name, "line": line, "label": label, "split": split},
                )


def _is_one_class_everywhere(found: Survey) -> bool:
    counts = found.class_counts["train"]  # a multi-label row may name none
    return len(counts) == 1 and set(counts.values()) == {found.num_rows["train"]}


def _check_enough(found: Survey, files: Mapping[str, InputFile]) -> None:
    num_train = found.num_rows["train"]
    name = files["train"].name
    if num_train < MIN_TRAIN_ROWS:
        raise TooFewRows(
            f"{name} leaves {num_train} rows to train on; at least {MIN_TRAIN_ROWS} are needed.",
            hint="Add rows.",
            param="data.train",
            detail={"num_rows": num_train, "min_rows": MIN_TRAIN_ROWS},
        )
    for split in ("eval", "test"):
        if getattr(found.spec.data, split) is not None and not found.num_rows[split]:
            raise TooFewRows(
                f"no row is left for data.{split} ({getattr(found.spec.data, split)} of {name}).",
                hint=f"Add rows, raise the fraction, or set data.{split} to null.",
                param=f"data.{split}",
            )
