"""Rows from JSON lines, and what makes a JSON value a row."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from trainer_core.errors import RowProblem
from trainer_core.rows.lines import Source, read_line_blocks
from trainer_core.rows.values import TOO_DEEP, Flaw, Row, find_flaw, shorten

# Only a string with such an escape can hold a NUL or a surrogate, once its line is decoded.
_RISKY_ESCAPE = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_PLAIN_WORDS = {
    "Expecting value": "a value was expected",
    "Expecting ',' delimiter": "a comma was expected",
    "Expecting ':' delimiter": "a colon was expected",
    "Expecting property name enclosed in double quotes": "a key in double quotes was expected",
    "Unterminated string starting at": "the string that starts there is not closed",
    "Invalid control character at": "a control character such as a tab is not escaped",
    "Extra data": "the object ends before it, and the line goes on",
    "Invalid \\escape": "the backslash starts no escape; write it twice",
    "Invalid \\uXXXX escape": "the escape \\u needs four hexadecimal digits",
}


def read_json_lines(
    source: Source, *, columns: frozenset[str] | None
) -> Iterator[Row | RowProblem]:
    """Yield a row for each line that is not blank."""
    decoder = ObjectDecoder()
    for block in read_line_blocks(source):
        for number, text in enumerate(block.lines, block.first_line):
            if not text or text.isspace():
                continue
            undecodable = block.flaws.get(number)
            found = Flaw(None, undecodable) if undecodable else _parse_line(text, decoder)
            scan = _RISKY_ESCAPE.search(text) is not None
            yield to_row(found, decoder, source, line=number, columns=columns, scan_strings=scan)


class ObjectDecoder:
    """A JSON decoder that notes a key given twice, which Python's would pass over."""

    def __init__(self) -> None:
        self.twice: list[str] = []  # since it was last cleared
        self.strict = json.JSONDecoder(object_pairs_hook=self._to_dict)
        self.lenient = json.JSONDecoder(strict=False)  # lets raw control characters pass

    def _to_dict(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) != len(pairs):
            times = Counter(key for key, _ in pairs)
            self.twice += [key for key in times if times[key] > 1]
        return values


def _parse_line(text: str, decoder: ObjectDecoder) -> Any:
    """Return the value of a line, or its flaw."""
    decoder.twice.clear()
    try:
        return decoder.strict.decode(text)
    except json.JSONDecodeError as error:
        return _nul_flaw(text, decoder) or Flaw(None, _spoken(error))
    except RecursionError:
        return Flaw(None, TOO_DEEP)
    except ValueError:  # only for integers beyond Python's limit of 4,300 digits
        return Flaw(None, "an integer has thousands of digits")


def _spoken(error: json.JSONDecodeError) -> str:
    if error.doc.startswith("\ufeff"):
        return "not valid JSON: it starts with a byte order mark (U+FEFF)"
    return f"not valid JSON at character {error.colno} of the line: {plain_words(error)}"


def plain_words(error: json.JSONDecodeError) -> str:
    """Return the parser's reason as a user would say it."""
    return _PLAIN_WORDS.get(error.msg.rstrip(": "), error.msg)


def _nul_flaw(text: str, decoder: ObjectDecoder) -> Flaw | None:
    """Return where a raw NUL stands in a line that is else valid JSON."""
    if "\0" not in text:
        return None
    try:
        values = decoder.lenient.decode(text)
    except (ValueError, RecursionError):
        return Flaw(None, f"a NUL character at character {text.index(chr(0)) + 1} of the line")
    return find_flaw(values, scan_strings=True) if isinstance(values, dict) else None


def to_row(
    value: Any,
    decoder: ObjectDecoder,
    source: Source,
    *,
    line: int,
    columns: frozenset[str] | None,
    scan_strings: bool,
) -> Row | RowProblem:
    """Return a decoded value, or the flaw of what could not be decoded, as a row."""
    flaw: Flaw | None
    if isinstance(value, Flaw):
        flaw = value
    elif not isinstance(value, dict):
        flaw = Flaw(None, f'expected an object such as {{"text": "..."}}, found {_article(value)}')
    elif decoder.twice:
        flaw = Flaw(shorten(decoder.twice[0]), "the key is there twice in one object")
    else:
        flaw = find_flaw(value, columns=columns, scan_strings=scan_strings)
    if flaw is not None:
        return RowProblem(source.name, line, flaw.column, flaw.reason)
    if columns is not None:
        value = {name: value[name] for name in value if name in columns}
    return Row(line, value)


def _article(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case _:
            return "a list"
