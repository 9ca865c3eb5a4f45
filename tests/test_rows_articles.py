"""The nested form of SQuAD's files: a row a question."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.row_files import bad, described, good, read
from trainer_core.errors import DataError
from trainer_core.rows import Limits, Row

ARTICLES = [
    {
        "title": "Oslo",
        "paragraphs": [
            {
                "qas": [  # before the context, as SQuAD 2 has it
                    {
                        "id": "1",
                        "question": "Where is it?",
                        "answers": [{"text": "Norway", "answer_start": 11}],
                        "is_impossible": False,
                    },
                    {
                        "question": "Who rules it?",
                        "id": "2",
                        "answers": [],
                        "plausible_answers": [{"text": "Oslo", "answer_start": 0}],
                        "is_impossible": True,
                    },
                ],
                "context": "Oslo is in Norway.",
            },
            {"context": "It is old.", "qas": []},
        ],
    },
    {
        "paragraphs": [{"context": "é", "qas": [{"id": 3, "question": "What?", "answers": []}]}],
        "title": "After its paragraphs",
    },
]
FLAT = [
    {
        "id": "1",
        "title": "Oslo",
        "context": "Oslo is in Norway.",
        "question": "Where is it?",
        "answers": [{"text": "Norway", "answer_start": 11}],
    },
    {
        "id": "2",
        "title": "Oslo",
        "context": "Oslo is in Norway.",
        "question": "Who rules it?",
        "answers": [],
    },
    {
        "id": 3,
        "title": "After its paragraphs",
        "context": "é",
        "question": "What?",
        "answers": [],
    },
]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("document", [{"version": "v2.0", "data": ARTICLES}, ARTICLES])
def test_articles_are_read_a_row_a_question(
    tmp_path: Path, document: Any, indent: int | None
) -> None:
    rows = read(tmp_path, json.dumps(document, indent=indent), name="train.json")
    assert good(rows) == FLAT
    assert list(good(rows)[0]) == ["id", "title", "context", "question", "answers"]


def test_the_description_shows_flat_columns(tmp_path: Path) -> None:
    found = described(tmp_path, json.dumps({"data": ARTICLES}), name="train.json")
    assert (found.format.kind, found.num_rows) == ("json", 3)
    columns = {column.name: column.type for column in found.columns}
    assert columns == {
        "id": "mixed",
        "title": "string",
        "context": "string",
        "question": "string",
        "answers": "list",
    }
    assert list(found.preview) == FLAT


def test_a_question_is_placed_on_the_line_where_it_starts(tmp_path: Path) -> None:
    content = json.dumps({"version": "v2.0", "data": ARTICLES}, indent=1, ensure_ascii=False)
    rows = read(tmp_path, content, name="train.json")
    lines = content.splitlines()
    for row, words in zip(rows, ("Where is it?", "Who rules it?", "What?"), strict=True):
        assert lines[row.line - 1].strip() == "{"
        assert words in "".join(lines[row.line : row.line + 3])


def test_chosen_columns_alone_are_read(tmp_path: Path) -> None:
    rows = read(tmp_path, json.dumps(ARTICLES), name="train.json", columns=["question"])
    assert good(rows) == [{"question": row["question"]} for row in FLAT]


@pytest.mark.parametrize(
    ("question", "column", "reason"),
    [
        ('{"id": 1, "id": 2, "question": "a"}', "id", "twice"),
        ('{"question": "a\\u0000"}', "question", "NUL"),
        ('"a"', None, "a question is an object"),
        (
            '{"question": "a", "is_impossible": true, "answers": [{"text": "c"}]}',
            "answers",
            "is_impossible is true",
        ),
    ],
)
def test_a_bad_question_is_a_bad_row_and_the_next_is_read(
    tmp_path: Path, question: str, column: str | None, reason: str
) -> None:
    content = (
        '{"data": [{"paragraphs": [{"context": "c", "qas": [\n'
        + question
        + ',\n{"question": "b"}\n]}]}]}'
    )
    rows = read(tmp_path, content, name="train.json")
    (problem,) = bad(rows)
    assert (problem.line, problem.column) == (2, column)
    assert reason in problem.reason
    assert good(rows) == [{"context": "c", "question": "b"}]
    assert rows[-1].line == 3


def test_nothing_is_lost_without_a_word(tmp_path: Path) -> None:
    articles = [*ARTICLES, {"title": "a"}, {"paragraphs": [{"context": "c"}]}]
    rows = read(tmp_path, json.dumps(articles), name="train.json")
    assert good(rows) == FLAT
    assert [(each.column, each.reason) for each in bad(rows)] == [
        ("paragraphs", "is missing"),
        ("qas", "is missing"),
    ]


@pytest.mark.parametrize(
    ("content", "spoken"),
    [
        ('[{"paragraphs": [{"qas": [], "qas": []}]}]', "'qas' is there twice"),
        ('[{"paragraphs": [{"qas": []}]},\n {"paragraphs": 5}]', "line 2, .* a list was expected"),
        ('[{"paragraphs": [{"qas": []}, 5]}]', "an object was expected"),
        ('[{"paragraphs": [{"qas": []}]}, {"paragraphs": [', "a value was expected|an object"),
    ],
)
def test_articles_of_another_form_are_an_error_that_names_the_place(
    tmp_path: Path, content: str, spoken: str
) -> None:
    with pytest.raises(DataError, match=spoken):
        read(tmp_path, content, name="train.json")


def test_an_article_beyond_the_limit_of_a_row_is_an_error(tmp_path: Path) -> None:
    small = {"paragraphs": [{"context": "c", "qas": [{"question": "q"}]}]}
    large = {"paragraphs": small["paragraphs"] * 1000}
    content = json.dumps([small, large])
    with pytest.raises(DataError, match="article that starts on line 1 has more than 1,000 bytes"):
        read(tmp_path, content, name="train.json", limits=Limits(max_row_bytes=1_000))
    rows = read(tmp_path, content, name="train.json", limits=Limits(max_row_bytes=100_000))
    assert len(rows) == 1001
    assert all(isinstance(row, Row) for row in rows)
