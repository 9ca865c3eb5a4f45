"""Whether a text is JSON, a table, tagged words or plain text, from its first lines."""

import csv
import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from trainer_core.rows.conll_lines import is_tagged

NUM_SAMPLE_LINES = 50
DELIMITERS = ",;\t|"
MIN_CONSISTENT_SHARE = 0.6

_ARRAY_OF_OBJECTS = re.compile(r'\[\s*(\{\s*["}]|\]\s*$)')
_SEPARATOR_LINE = re.compile(r"sep=([,;\t|:~^])\s*", re.IGNORECASE)  # Excel's first line
_SPOKEN_DELIMITER = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}

# The csv module knows one limit for the whole process, 128 Ki characters a field. Rows have a
# limit of their own here (`Limits.max_row_bytes`), so this one is lifted.
csv.field_size_limit(2**31 - 1)


@dataclass(frozen=True, slots=True)
class TextKind:
    """What a text is."""

    kind: Literal["jsonl", "json", "csv", "tsv", "conll", "text"]
    delimiter: str | None = None
    notes: tuple[str, ...] = ()


def detect_kind(text: str, *, is_whole: bool, named: str | None) -> TextKind:
    """Return what a text is.

    Args:
        text: the start of the file, decoded.
        is_whole: there is no more of it.
        named: the kind that the file's name promises, if any.
    """
    text = text.removeprefix("\ufeff")
    lines = _first_lines(text, is_whole=is_whole)
    start = text.lstrip()
    if kind := _kind_of_objects(start, lines, named=named):
        return TextKind(kind)
    if _ARRAY_OF_OBJECTS.match(start):
        return TextKind("jsonl" if _is_lines_of_arrays(lines) else "json")
    if start.startswith("[") and named in ("json", "jsonl"):
        return TextKind("jsonl" if named == "jsonl" else "json")
    if named == "conll" or is_tagged(_whole_lines(text, is_whole=is_whole)):
        return TextKind("conll")
    return _kind_of_table(lines, named=named) or _fallback(named)


def _first_lines(text: str, *, is_whole: bool) -> list[str]:
    """Return the first lines that are not blank, without one that the sample may have cut."""
    lines = [line for line in _whole_lines(text, is_whole=is_whole) if line.strip()]
    return lines[:NUM_SAMPLE_LINES] or [text]


def _whole_lines(text: str, *, is_whole: bool) -> list[str]:
    newline = "\r" if "\r" in text and "\n" not in text else "\n"
    pieces = text.split(newline, maxsplit=4 * NUM_SAMPLE_LINES)
    is_last_cut = not is_whole or len(pieces) > 4 * NUM_SAMPLE_LINES
    return pieces[:-1] if is_last_cut else pieces


def _kind_of_objects(
    start: str, lines: list[str], *, named: str | None
) -> Literal["jsonl", "json"] | None:
    """Return the kind of a text of JSON objects, None if it is something else."""
    objects = [value for value in map(_parse, lines) if isinstance(value, dict)]
    # In an array that breaks off, the last line alone may be an object.
    has_most = 2 * len(objects) > len(lines) - (not start.startswith("["))
    if has_most or isinstance(_parse(lines[0]), dict):
        is_document = len(lines) == 1 and named == "json" and _wraps_rows(objects[0])
        return "json" if is_document else "jsonl"
    if not start.startswith("{"):
        return None
    if len(lines) > 1 and all(line.lstrip().startswith("{") for line in lines):
        return "jsonl"  # broken ones, such as Python's notation
    looks_like_json = re.match(r'\{\s*"', start) is not None
    if named == "json" or (looks_like_json and len(lines) > 1):
        return "json"
    return "jsonl" if named == "jsonl" or looks_like_json else None


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _wraps_rows(document: dict[str, Any]) -> bool:
    """Return whether an object holds the rows in one list, rather than being a row itself."""
    lists = [
        name
        for name, value in document.items()
        if isinstance(value, list) and value and isinstance(value[0], dict)
    ]
    return len(lists) == 1 and lists != ["messages"]  # a chat is one row


def _is_lines_of_arrays(lines: list[str]) -> bool:
    return len(lines) > 1 and all(isinstance(_parse(line), list) for line in lines[:2])


def _kind_of_table(lines: list[str], *, named: str | None) -> TextKind | None:
    if named in ("csv", "tsv") and (declared := _SEPARATOR_LINE.fullmatch(lines[0])):
        return _table(declared[1], named)
    delimiter = _find_delimiter(lines)
    if delimiter is None:
        return None
    if named in ("csv", "tsv"):
        return _table(delimiter, named)
    # Prose has commas. Only a text whose every line has the same tabs is taken for a table against
    # its name; without a name to go by, any text whose every line has the same fields is.
    if named == "text" and delimiter != "\t":
        return None
    return _table(delimiter, named) if len(lines) > 1 and _share(lines, delimiter) == 1 else None


def _table(delimiter: str, named: str | None) -> TextKind:
    usual = "\t" if named == "tsv" else ","
    notes: tuple[str, ...] = ()
    if delimiter not in (usual, "\t"):
        spoken = _SPOKEN_DELIMITER.get(delimiter, f"'{delimiter}'")
        notes = (f"The columns are separated by {spoken}.",)
    return TextKind("tsv" if delimiter == "\t" else "csv", delimiter, notes)


def _find_delimiter(lines: list[str]) -> str | None:
    """Return what separates most lines into the same number of fields, at least two."""
    scores = {
        delimiter: (share, lines[0].count(delimiter))
        for delimiter in DELIMITERS
        if delimiter in lines[0] and (share := _share(lines, delimiter)) >= MIN_CONSISTENT_SHARE
    }
    return max(scores, key=lambda delimiter: scores[delimiter]) if scores else None


def _share(lines: list[str], delimiter: str) -> float:
    """Return the share of the records that have as many fields as the first; 0 if that has one."""
    try:
        records = list(csv.reader((line + "\n" for line in lines), delimiter=delimiter))
    except csv.Error:
        return 0.0
    if len(records) > 1 and len(lines) == NUM_SAMPLE_LINES:
        records.pop()  # its last line may be missing
    widths = Counter(len(record) for record in records)
    width = len(records[0])
    return widths[width] / len(records) if width > 1 else 0.0


def _fallback(named: str | None) -> TextKind:
    match named:
        case "csv":
            return TextKind("csv", ",")
        case "tsv":
            return TextKind("tsv", "\t")
        case "jsonl" | "json":
            return TextKind("jsonl")
        case _:
            return TextKind("text")
