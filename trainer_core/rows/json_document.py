"""Rows from one JSON document: the elements of its array, or of the one list in its object.

The elements are decoded one by one from a window of the text, so that its size does not matter.
Articles with questions, as SQuAD has them, give a row a question.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from trainer_core.errors import DataError, RowProblem
from trainer_core.rows.articles import has_questions, questions_of
from trainer_core.rows.json_rows import ObjectDecoder, to_row
from trainer_core.rows.json_window import JsonWindow
from trainer_core.rows.lines import Source
from trainer_core.rows.values import Flaw, Row, shorten


def read_json_document(
    source: Source, *, columns: frozenset[str] | None
) -> Iterator[Row | RowProblem]:
    """Yield a row for each element of the document's array, or of the one list in its object.

    Raises:
        DataError: the document is not valid JSON, or has no such list; where it breaks is named.
    """
    decoder = ObjectDecoder()
    window = JsonWindow(source, decoder)
    match window.peek():
        case "[":
            elements = _elements(window, source)
        case "{":
            elements = _wrapped_elements(window, source)
        case _:
            raise window.error("an object or a list was expected")
    for line, value in elements:
        yield to_row(value, decoder, source, line=line, columns=columns, scan_strings=True)
    if window.peek():
        raise window.error("the document ends before it, and the file goes on")


def _elements(window: JsonWindow, source: Source) -> Iterator[tuple[int, Any]]:
    """Take an array and yield its elements, or their questions, each with its line."""
    is_of_articles: bool | None = None
    for line in window.items():
        if is_of_articles is None:
            is_of_articles = has_questions(window.foresee())
        if is_of_articles:
            yield from questions_of(window, source)
        else:
            yield line, window.decode()


def _wrapped_elements(window: JsonWindow, source: Source) -> Iterator[tuple[int, Any]]:
    """Take an object and yield the elements of its one list of objects."""
    names: list[str] = []
    for name in window.members():
        if window.peek() == "[":
            yield from _rows_of_list(_elements(window, source), name, names, source)
        else:
            window.decode()
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
        if is_rows is None and (is_rows := isinstance(value, dict | Flaw)):
            names.append(name)
            if len(names) > 1:
                quoted = " and ".join(f"'{shorten(each)}'" for each in names)
                raise DataError(
                    f"{source.name} has two lists of objects, {quoted}; one was expected.",
                    hint="Upload each as a file of its own.",
                )
        if is_rows:
            yield line, value
