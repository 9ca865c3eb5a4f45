"""Rows from articles with questions, the nested form of SQuAD's files: a row a question.

    {"title": ..., "paragraphs": [{"context": ..., "qas": [{"id": ..., "question": ...,
     "answers": [{"text": ..., "answer_start": ...}], "is_impossible": ...}]}]}

A title may come after the paragraphs, and a context after its questions, so that an article is held
until its end.
"""

from collections.abc import Iterator
from typing import Any

from trainer_core.rows.json_window import JsonWindow
from trainer_core.rows.lines import Source, too_long
from trainer_core.rows.values import Flaw, shorten

_COLUMNS = ("id", "title", "context", "question", "answers")

_Placed = tuple[int, dict[str, Any] | Flaw]  # the line of a question, and its values


def has_questions(value: object) -> bool:
    """Return whether the first element of a list is an article with questions."""
    paragraphs = value.get("paragraphs") if isinstance(value, dict) else None
    first = paragraphs[0] if isinstance(paragraphs, list) and paragraphs else None
    return isinstance(first, dict) and isinstance(first.get("qas"), list)


def questions_of(window: JsonWindow, source: Source) -> Iterator[_Placed]:
    """Take an article and yield its questions as rows, each with the line on which it starts.

    Raises:
        DataError: it is no such article, or has more characters than a row may have bytes.
    """
    line, start = window.line, window.num_taken
    shared: dict[str, Any] = {}
    questions: list[_Placed] | None = None
    for name in _once(window):
        if name == "paragraphs":
            questions = []
            for _ in window.items():
                questions += _paragraph(window)
                if window.num_taken - start > source.limits.max_row_bytes:
                    raise too_long(source, line=line, unit="article")
        elif name == "title":
            shared["title"] = window.decode()
        else:
            window.decode()
    window.forget_twice()  # each question was asked for its own
    if questions is None:
        questions = [(line, Flaw("paragraphs", "is missing"))]
    for line_of_question, values in questions:
        yield line_of_question, _in_order(values, shared)


def _paragraph(window: JsonWindow) -> list[_Placed]:
    line = window.line
    shared: dict[str, Any] = {}
    questions: list[_Placed] | None = None
    for name in _once(window):
        if name == "qas":
            questions = [(line, _question(window)) for line in window.items()]
        elif name == "context":
            shared["context"] = window.decode()
        else:
            window.decode()
    if questions is None:
        questions = [(line, Flaw("qas", "is missing"))]
    return [(line, _in_order(values, shared)) for line, values in questions]


def _question(window: JsonWindow) -> dict[str, Any] | Flaw:
    """Take a question and return its values as a row has them, or its flaw."""
    question = window.decode()
    if twice := window.forget_twice():
        return Flaw(shorten(twice), "the key is there twice in one object")
    if not isinstance(question, dict):
        return Flaw(None, 'a question is an object such as {"question": "...", "answers": []}')
    if question.get("is_impossible") is not True:
        return question
    if question.get("answers"):
        return Flaw("answers", "is_impossible is true, but there are answers")
    return question | {"answers": []}


def _in_order(values: dict[str, Any] | Flaw, shared: dict[str, Any]) -> dict[str, Any] | Flaw:
    if isinstance(values, Flaw):
        return values
    merged = values | shared
    return {name: merged[name] for name in _COLUMNS if name in merged}


def _once(window: JsonWindow) -> Iterator[str]:
    """Take an object and yield each key; none may be there twice."""
    seen: set[str] = set()
    for name in window.members():
        if name in seen:
            raise window.error(f"the key '{shorten(name)}' is there twice in one object")
        seen.add(name)
        yield name
