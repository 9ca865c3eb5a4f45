"""A row of a file as the spec's row type, or what is wrong with it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from trainer_core.errors import RowProblem, UnknownColumn
from trainer_core.rows.files import InputFile
from trainer_core.rows.formats import sniff
from trainer_core.rows.reading import Row as RawRow
from trainer_core.rows.reading import read_rows
from trainer_core.spec import JobSpec, Row


@dataclass(frozen=True, slots=True)
class Usable:
    """A row that can be trained on."""

    line: int
    row: Row


def raw_rows(file: InputFile) -> Iterator[RawRow | RowProblem]:
    """Yield the rows of a file as it has them, or what is wrong with them."""
    return read_rows(
        file.path,
        name=file.name,
        file_format=sniff(file.path, name=file.name),
        has_header=file.has_header,
    )


def fitted_rows(
    spec: JobSpec, split: str, file: InputFile, rows: Iterator[RawRow | RowProblem]
) -> Iterator[Usable | RowProblem]:
    """Yield each row as the spec's row type, or what is wrong with it; each column must exist."""
    roles = spec.columns.mapped()
    row_type = spec.row_type()
    seen: dict[str, None] = {}  # columns in order of appearance
    limit = spec.data.max_train_rows if split == "train" else None
    num_usable = 0
    for raw in rows:
        if isinstance(raw, RowProblem):
            yield raw
            continue
        seen.update(dict.fromkeys(raw.values))
        row = _refused(raw, row_type, file) or _fit_row(raw, row_type, roles, file)
        yield row
        num_usable += isinstance(row, Usable)
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
) -> Usable | RowProblem:
    values = {role: raw.values[column] for role, column in roles.items() if column in raw.values}
    try:
        return Usable(raw.line, row_type.model_validate(values))
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
