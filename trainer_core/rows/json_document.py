"""Rows from one JSON document: the elements of its array, or of the one list in its object.

The elements are decoded one by one from a window of the text, so that its size does not matter.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from trainer_core.errors import DataError, RowProblem
from trainer_core.rows.json_rows import ObjectDecoder, plain_words, to_row
from trainer_core.rows.lines import Source, read_text, too_long
from trainer_core.rows.values import TOO_DEEP, Row, shorten

_SPACE = re.compile(r"[ \t\r\n]*")
# How near to the end of the window an error may be the window's doing: a cut \uXXXX\uXXXX.
_NEAR_END = 16


def read_json_document(
    source: Source, *, columns: frozenset[str] | None
) -> Iterator[Row | RowProblem]:
    """Yield a row for each element of the document's array, or of the one list in its object.

    Raises:
        DataError: the document is not valid JSON, or has no such list; where it breaks is named.
    """
    decoder = ObjectDecoder()
    window = _Window(source, decoder)
    elements = _elements(window) if window.peek() == "[" else _wrapped_elements(window, source)
    for line, value in elements:
        yield to_row(value, decoder, source, line=line, columns=columns, scan_strings=True)
    if window.peek():
        raise window.error("the document ends before it, and the file goes on")


class _Window:
    """A part of the document, moved forward as its values are taken."""

    def __init__(self, source: Source, decoder: ObjectDecoder) -> None:
        self._source = source
        self._decoder = decoder
        self._pieces: Iterator[str] = read_text(source)
        self._text = ""
        self._position = 0
        self._line_start = 0  # where the line of `_position` starts; can lie before the window
        self.line = 1  # of `_position`

    def peek(self) -> str:
        """Return the next character that is no white space without taking it; "" at the end."""
        while True:
            space = _SPACE.match(self._text, self._position)
            assert space is not None, "a pattern that can be empty did not match"
            self._advance(space.end())
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._extend():
                return ""

    def take(self, expected: str, *, reason: str) -> str:
        """Take the next character, which must be one of those expected."""
        found = self.peek()
        if not found or found not in expected:
            raise self.error(reason)
        self._advance(self._position + 1)
        return found

    def decode(self) -> Any:
        """Take the next value."""
        self.peek()
        while True:
            self._decoder.twice.clear()
            try:
                value, end = self._decoder.strict.raw_decode(self._text, self._position)
            except json.JSONDecodeError as error:
                if not self._may_be_cut(error) or not self._extend():
                    self._advance(error.pos)
                    raise self.error(plain_words(error)) from error
                continue
            except RecursionError as error:
                raise self.error(TOO_DEEP) from error
            except ValueError as error:
                raise self.error("an integer has thousands of digits") from error
            # A number may go on behind the window.
            if end < len(self._text) or not self._extend():
                self._advance(end)
                return value

    def error(self, reason: str) -> DataError:
        """Return the error that the document breaks here."""
        character = self._position - self._line_start + 1
        return DataError(
            f"{self._source.name} is not valid JSON at line {self.line:,}, character"
            f" {character:,}: {reason}.",
            hint="Mend it, or write one object a line (JSONL), where a broken line costs no other.",
            detail={"file": self._source.name, "line": self.line},
        )

    def _may_be_cut(self, error: json.JSONDecodeError) -> bool:
        is_open = error.msg.startswith("Unterminated")
        return is_open or error.pos >= len(self._text) - _NEAR_END

    def _advance(self, end: int) -> None:
        num_lines = self._text.count("\n", self._position, end)
        if num_lines:
            self.line += num_lines
            self._line_start = self._text.rindex("\n", self._position, end) + 1
        self._position = end

    def _extend(self) -> bool:
        """Drop what was taken and at least double the rest; False at the end of the file."""
        wanted = max(1, len(self._text) - self._position)
        if wanted > self._source.limits.max_row_bytes:
            raise too_long(self._source, line=self.line, unit="value")
        pieces: list[str] = []
        num_read = 0
        while num_read < wanted and (piece := next(self._pieces, None)) is not None:
            pieces.append(piece)
            num_read += len(piece)
        if not num_read:
            return False
        self._text = "".join((self._text[self._position :], *pieces))
        self._line_start -= self._position
        self._position = 0
        return True


def _elements(window: _Window) -> Iterator[tuple[int, Any]]:
    """Take an array and yield its elements, each with the line on which it starts."""
    window.take("[", reason="a list was expected")
    if window.peek() == "]":
        window.take("]", reason="")
        return
    separator = ","
    while separator == ",":
        window.peek()
        line = window.line
        yield line, window.decode()
        separator = window.take(",]", reason="a comma or the end of the list was expected")


def _wrapped_elements(window: _Window, source: Source) -> Iterator[tuple[int, Any]]:
    """Take an object and yield the elements of its one list of objects."""
    window.take("{", reason="an object or a list was expected")
    names: list[str] = []
    separator = "," if window.peek() == '"' else window.take("}", reason="a key was expected")
    while separator == ",":
        name = window.decode() if window.peek() == '"' else None
        if name is None:
            raise window.error("a key in double quotes was expected")
        window.take(":", reason="a colon was expected")
        if window.peek() == "[":
            yield from _rows_of_list(_elements(window), str(name), names, source)
        else:
            window.decode()
        separator = window.take(",}", reason="a comma or the end of the object was expected")
    if not names:
        raise DataError(
            f"{source.name} holds one object without a list of objects in it.",
            hint='Write the rows as a list: [{"text": "..."}, ...], or one object a line (JSONL).',
        )


def _rows_of_list(
    elements: Iterable[tuple[int, Any]], name: str, names: list[str], source: Source
) -> Iterator[tuple[int, Any]]:
    """Yield the elements of a list if its first one is an object; there may be one such list."""
    is_rows: bool | None = None
    for line, value in elements:
        if is_rows is None and (is_rows := isinstance(value, dict)):
            names.append(name)
            if len(names) > 1:
                quoted = " and ".join(f"'{shorten(each)}'" for each in names)
                raise DataError(
                    f"{source.name} has two lists of objects, {quoted}; one was expected.",
                    hint="Upload each as a file of its own.",
                )
        if is_rows:
            yield line, value
