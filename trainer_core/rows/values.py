"""A row, and what makes a value unfit to be stored or trained on.

PostgreSQL and tokenizers refuse NUL and lone surrogates; Arrow refuses integers beyond 64 bits;
JSON has no NaN. Such a value makes a bad row here, where its place in the file is still known.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from trainer_core.errors import DataError, UnknownColumn

MAX_COLUMNS = 1_000
MAX_NAME_CHARACTERS = 256
MAX_DEPTH = 100

_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**63 - 1

TOO_DEEP = f"it is nested more than {MAX_DEPTH} levels deep"


@dataclass(frozen=True, slots=True)
class Row:
    """One row as the file has it."""

    line: int  # physical line on which it starts, from 1; for Parquet the row, from 1
    values: dict[str, Any]


class Flaw(NamedTuple):
    """Why a row can't be used."""

    column: str | None
    reason: str


def find_flaw(
    values: Mapping[str, Any], *, columns: frozenset[str] | None = None, scan_strings: bool
) -> Flaw | None:
    """Return the first flaw of a row, or None.

    Args:
        values: the row.
        columns: the columns that matter; all if None.
        scan_strings: False where the text of the row shows that no string can have a flaw.
    """
    for name, value in values.items():
        if columns is not None and name not in columns:
            continue
        if len(name) > MAX_NAME_CHARACTERS:
            too_long = f"the column's name has more than {MAX_NAME_CHARACTERS} characters"
            return Flaw(shorten(name), too_long)
        if scan_strings and (flaw := string_flaw(name)):
            return Flaw(shorten(name), f"the column's name holds {flaw}")
        if reason := _value_flaw(value, depth=1, scan_strings=scan_strings):
            return Flaw(name, reason)
    return None


def string_flaw(text: str) -> str | None:
    """Return what a string holds that it must not, or None."""
    if "\0" in text:
        return f"a NUL character (at position {text.index(chr(0)) + 1})"
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = f"U+{ord(text[error.start]):04X}"
        return f"no valid Unicode (lone surrogate {code} at position {error.start + 1})"
    return None


def _value_flaw(value: object, *, depth: int, scan_strings: bool) -> str | None:
    reason: str | None = None
    match value:
        case str():
            if scan_strings and (flaw := string_flaw(value)):
                reason = f"the text holds {flaw}"
        case None | bool() | bytes():
            pass
        case int():
            if not _MIN_INTEGER <= value <= _MAX_INTEGER:
                reason = "the integer does not fit in 64 bits; write an identifier as a string"
        case float():
            if not math.isfinite(value):
                reason = "the number is NaN or infinite"
        case dict() | list():
            reason = _nested_flaw(value, depth=depth, scan_strings=scan_strings)
        case _:
            raise AssertionError(f"a {type(value)} among the values of a row")
    return reason


def _nested_flaw(
    value: dict[str, Any] | list[Any], *, depth: int, scan_strings: bool
) -> str | None:
    if depth >= MAX_DEPTH:
        return TOO_DEEP
    if isinstance(value, dict):
        return _first_flaw((*value, *value.values()), depth=depth + 1, scan_strings=scan_strings)
    # Long lists of small numbers or plain strings are the common case; min and max run in C.
    kinds = set(map(type, value))
    if kinds == {int} and min(value) >= _MIN_INTEGER and max(value) <= _MAX_INTEGER:
        return None
    if kinds == {str} and not scan_strings:
        return None
    return _first_flaw(value, depth=depth + 1, scan_strings=scan_strings)


def _first_flaw(values: Iterable[object], *, depth: int, scan_strings: bool) -> str | None:
    for value in values:
        if reason := _value_flaw(value, depth=depth, scan_strings=scan_strings):
            return reason
    return None


def shorten(text: str, *, max_characters: int = 60) -> str:
    """Return `text`, cut with an ellipsis, fit to be stored and shown."""
    cut = text if len(text) <= max_characters else text[: max_characters - 1] + "…"
    return cut.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def check_names(names: Sequence[str], *, file: str) -> None:
    """Check the column names of a table.

    Raises:
        DataError: a name is empty, too long, not valid text or there twice; or they are too many.
    """
    hint = "Give each column a name of its own in the first line."
    if len(names) > MAX_COLUMNS:
        raise DataError(
            f"{file} has {len(names):,} columns; at most {MAX_COLUMNS:,} are accepted.",
            hint="Leave out columns, or put their values in one list.",
        )
    if empty := [str(place) for place, name in enumerate(names, 1) if not name]:
        raise DataError(f"{file}: no name for column {', '.join(empty[:10])}.", hint=hint)
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(f"{file} has two columns named '{shorten(name)}'.", hint=hint)
        if len(name) > MAX_NAME_CHARACTERS:
            raise DataError(
                f"{file}: the name of column '{shorten(name)}' has {len(name):,} characters;"
                f" at most {MAX_NAME_CHARACTERS} are accepted.",
                hint="Check that the first line holds the column names.",
            )
        if flaw := string_flaw(name):
            raise DataError(f"{file}: the name of column '{shorten(name)}' holds {flaw}.")
        seen.add(name)


def check_known(columns: Sequence[str], names: Sequence[str], *, file: str) -> None:
    """Check that each of the wanted columns is one of `names`.

    Raises:
        UnknownColumn: one is not.
    """
    for column in columns:
        if column not in names:
            raise UnknownColumn(
                f"no column '{column}' in {file}; it has: {', '.join(names)}.",
                hint="Name one of these columns.",
                param=column,
                detail={"file": file, "columns": list(names)},
            )
