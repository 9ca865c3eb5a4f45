"""The text of a JSON document, of which a part is held: its values are taken one by one."""

import json
import re
from collections.abc import Iterator
from typing import Any

from trainer_core.errors import DataError
from trainer_core.rows.json_rows import ObjectDecoder, plain_words
from trainer_core.rows.lines import Source, read_text, too_long
from trainer_core.rows.values import TOO_DEEP

_SPACE = re.compile(r"[ \t\r\n]*")
# How near to the end of the window an error may be the window's doing: a cut \uXXXX\uXXXX.
_NEAR_END = 16


class JsonWindow:
    """A part of the document, moved forward as its values are taken."""

    def __init__(self, source: Source, decoder: ObjectDecoder) -> None:
        self._source = source
        self._decoder = decoder
        self._pieces: Iterator[str] = read_text(source)
        self._text = ""
        self._position = 0
        self._line_start = 0  # where the line of `_position` starts; can lie before the window
        self.line = 1  # of `_position`
        self.num_taken = 0  # characters

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
        value, end = self._decoded()
        self._advance(end)
        return value

    def foresee(self) -> Any:
        """Return the next value without taking it."""
        return self._decoded()[0]

    def forget_twice(self) -> str | None:
        """Return a key that the value last taken has twice in one object, and forget it."""
        found = next(iter(self._decoder.twice), None)
        self._decoder.twice.clear()
        return found

    def items(self) -> Iterator[int]:
        """Take an array and yield the line of each element, to be taken before the next."""
        self.take("[", reason="a list was expected")
        if self.peek() == "]":
            self.take("]", reason="")
            return
        separator = ","
        while separator == ",":
            self.peek()
            yield self.line
            separator = self.take(",]", reason="a comma or the end of the list was expected")

    def members(self) -> Iterator[str]:
        """Take an object and yield each key, whose value is to be taken before the next."""
        self.take("{", reason="an object was expected")
        separator = "," if self.peek() == '"' else self.take("}", reason="a key was expected")
        while separator == ",":
            if self.peek() != '"':
                raise self.error("a key in double quotes was expected")
            name = str(self.decode())
            self.take(":", reason="a colon was expected")
            yield name
            separator = self.take(",}", reason="a comma or the end of the object was expected")

    def _decoded(self) -> tuple[Any, int]:
        """Return the next value and where it ends."""
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
                return value, end

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
        self.num_taken += end - self._position
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
