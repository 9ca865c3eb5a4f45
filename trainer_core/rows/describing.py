"""What is in a file, for the person who uploaded it: columns, counts, bad rows, a preview."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from trainer_core.errors import DataError, RowProblem
from trainer_core.rows.formats import FileFormat, sniff
from trainer_core.rows.reading import read_column_names, read_rows
from trainer_core.rows.streams import DEFAULT_LIMITS, Limits
from trainer_core.rows.values import MAX_COLUMNS

ColumnType = Literal["string", "integer", "number", "boolean", "list", "object", "null", "mixed"]

MAX_BAD_ROWS = 100
MAX_PREVIEW_ROWS = 20
MAX_PREVIEW_CHARACTERS = 1_000  # of one string
MAX_PREVIEW_NESTED_CHARACTERS = 20_000  # of one list or object, written as JSON

_TYPES: dict[type, ColumnType] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    list: "list",
    dict: "object",
    bytes: "object",  # binary values of Parquet
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column and what its values are; nulls do not count where there are other values."""

    name: str
    type: ColumnType


@dataclass(frozen=True, slots=True)
class Description:
    """What is in a file."""

    format: FileFormat
    num_rows: int  # good ones
    columns: tuple[Column, ...]  # in order of appearance
    num_bad_rows: int
    bad_rows: tuple[RowProblem, ...]  # the first ones
    preview: tuple[dict[str, Any], ...]  # the first good rows, long values cut

    def to_dict(self) -> dict[str, Any]:
        """Return the description as JSON-ready values."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Description":
        """Return the description that `to_dict` wrote."""
        return cls(
            format=FileFormat.from_dict(values["format"]),
            num_rows=values["num_rows"],
            columns=tuple(Column(**column) for column in values["columns"]),
            num_bad_rows=values["num_bad_rows"],
            bad_rows=tuple(RowProblem(**problem) for problem in values["bad_rows"]),
            preview=tuple(values["preview"]),
        )


def describe(
    path: Path, *, name: str, has_header: bool = True, limits: Limits = DEFAULT_LIMITS
) -> Description:
    """Return what is in a file.

    Args:
        path: where the file is.
        name: what the user calls it.
        has_header: for CSV and TSV: the first record names the columns.
        limits: how much the file and a row may hold.

    Raises:
        DataError: the file as a whole can't be read; see `sniff` and `read_rows`.
    """
    file_format = sniff(path, name=name, limits=limits)
    names = read_column_names(
        path, name=name, file_format=file_format, has_header=has_header, limits=limits
    )
    seen: dict[str, set[type]] = {column: set() for column in names}
    num_rows = num_bad_rows = 0
    bad_rows: list[RowProblem] = []
    preview: list[dict[str, Any]] = []
    for row in read_rows(
        path, name=name, file_format=file_format, has_header=has_header, limits=limits
    ):
        if isinstance(row, RowProblem):
            num_bad_rows += 1
            if num_bad_rows <= MAX_BAD_ROWS:
                bad_rows.append(row)
            continue
        num_rows += 1
        _note_types(row.values, seen, name=name)
        if num_rows <= MAX_PREVIEW_ROWS:
            preview.append({column: _cut(value) for column, value in row.values.items()})
    return Description(
        format=file_format,
        num_rows=num_rows,
        columns=tuple(Column(column, _column_type(kinds)) for column, kinds in seen.items()),
        num_bad_rows=num_bad_rows,
        bad_rows=tuple(bad_rows),
        preview=tuple(preview),
    )


def _note_types(values: Mapping[str, Any], seen: dict[str, set[type]], *, name: str) -> None:
    for column, value in values.items():
        if column in seen:
            seen[column].add(type(value))
            continue
        if len(seen) >= MAX_COLUMNS:
            raise DataError(
                f"{name}: its rows have more than {MAX_COLUMNS:,} different keys.",
                hint="Use the same keys in every row; what varies belongs in the values.",
            )
        seen[column] = {type(value)}


def _column_type(kinds: set[type]) -> ColumnType:
    types = {_TYPES[kind] for kind in kinds if kind is not type(None)}
    if not types:
        return "null"
    if types == {"integer", "number"}:
        return "number"
    return types.pop() if len(types) == 1 else "mixed"


def _cut(value: Any) -> Any:
    """Return a value fit to be shown and stored."""
    short = _cut_strings(value)
    if isinstance(short, list | dict):
        text = json.dumps(short, ensure_ascii=False)
        if len(text) > MAX_PREVIEW_NESTED_CHARACTERS:
            return text[:MAX_PREVIEW_CHARACTERS] + "…"
    return short


def _cut_strings(value: Any) -> Any:
    match value:
        case str() if len(value) > MAX_PREVIEW_CHARACTERS:
            return value[:MAX_PREVIEW_CHARACTERS] + "…"
        case bytes():
            return f"<{len(value):,} bytes>"
        case list():
            return [_cut_strings(each) for each in value]
        case dict():
            return {name: _cut_strings(each) for name, each in value.items()}
        case _:
            return value
