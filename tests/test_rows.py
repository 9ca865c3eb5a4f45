"""The rows of an upload, with exact places for what is wrong: any format, JSON and text."""

import contextlib
import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tests.row_files import (
    ROWS,
    TEXT,
    WRITTEN,
    as_csv,
    as_jsonl,
    bad,
    described,
    good,
    quick,
    read,
)
from trainer_core.errors import DataError, RowProblem
from trainer_core.rows import Limits, Row, read_rows, sniff


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress])
@pytest.mark.parametrize("kind", list(WRITTEN))
def test_each_format_reads_plain_and_compressed(
    tmp_path: Path, kind: str, compress: type[bytes]
) -> None:
    rows = read(tmp_path, compress(WRITTEN[kind]), name=f"rows.{kind}")

    assert good(rows) == ROWS
    assert not bad(rows)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv"])
def test_each_encoding_reads_the_same_rows(tmp_path: Path, kind: str, encoding: str) -> None:
    expected = [{"text": "é €\U0001f600", "label": "x"}, *ROWS]
    texts = {
        "jsonl": as_jsonl(expected, ensure_ascii=False),
        "json": json.dumps(expected, ensure_ascii=False, indent=1),
        "csv": as_csv(expected),
        "tsv": as_csv(expected, delimiter="\t"),
    }

    assert good(read(tmp_path, texts[kind].encode(encoding), name=f"rows.{kind}")) == expected


def test_latin_1_reads_accents(tmp_path: Path) -> None:
    rows = read(tmp_path, "text,label\ncafé,1\n".encode("latin-1"), name="a.csv")

    assert good(rows) == [{"text": "café", "label": "1"}]


def test_text_reads_a_row_a_line(tmp_path: Path) -> None:
    rows = read(tmp_path, "first\r\n\r\n  \n\u2028second \x0c\nno newline", name="a.txt")

    assert rows == [
        Row(1, {"text": "first"}),
        Row(4, {"text": "\u2028second \x0c"}),
        Row(5, {"text": "no newline"}),
    ]


def test_one_broken_line_in_ten_thousand_is_placed_and_the_rest_kept(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"row {n}", "pad": "x" * 90}) for n in range(10_000)]
    lines[7_122] = '{"text": "row 7122" "pad": 1}'
    lines.insert(3, "")  # a blank line counts as a line

    rows = read(tmp_path, "\n".join(lines), name="a.jsonl")

    assert bad(rows) == [
        RowProblem(
            "a.jsonl",
            7_124,
            None,
            "not valid JSON at character 21 of the line: a comma was expected",
        )
    ]
    assert len(good(rows)) == 9_999
    assert rows[-1].line == 10_001


@pytest.mark.parametrize(
    ("line", "column", "reason"),
    [
        ('{"a": NaN}', "a", "NaN or infinite"),
        ('{"a": [1, {"b": -Infinity}]}', "a", "NaN or infinite"),
        ('{"a": 1e999}', "a", "NaN or infinite"),
        ('{"a": 1, "a": 2}', "a", "twice"),
        ('{"b": {"a": 1, "a": 2}}', "a", "twice"),
        ('{"a": ' + "[" * 150 + "]" * 150 + "}", "a", "levels deep"),
        ('{"a":' * 150 + "1" + "}" * 150, "a", "levels deep"),
        ("[" * 100_000, None, "levels deep"),
        ('{"a":' * 100_000, None, "levels deep"),
        ('{"a": ' + "9" * 50_000 + "}", None, "thousands of digits"),
        ('{"a": 9223372036854775808}', "a", "64 bits"),
        ('{"a": [1, 9223372036854775808]}', "a", "64 bits"),
        ('{"a": "x\\u0000y"}', "a", "NUL character (at position 2)"),
        ('{"a": "x\0y"}', "a", "NUL character (at position 2)"),
        ('{"a": "x\0y"', None, "NUL character at character 9"),
        ('{"a": "\\ud83d"}', "a", "lone surrogate U+D83D"),
        ('{"a": {"\\ude00": 1}}', "a", "lone surrogate"),
        ('{"\\u0000": 1}', "\N{REPLACEMENT CHARACTER}", "NUL"),
        (f'{{"{"k" * 300}": 1}}', "k" * 59 + "…", "more than 256 characters"),
        ("[1, 2]", None, "found a list"),
        ('"text"', None, "found a string"),
        ("null", None, "found null"),
        ("12", None, "found a number"),
        ("{'a': 1}", None, "character 2 of the line: a key in double quotes"),
        ('{"a": 1} {"a": 2}', None, "character 10 of the line: the object ends"),
        ('{"a": "tab\there"}', None, "control character"),
        ('{"a": "open}', None, "not closed"),
        ('{"a": "\\x"}', None, "backslash"),
        ('\ufeff{"a": 1}', None, "byte order mark"),
        ("garbage", None, "a value was expected"),
    ],
)
def test_a_bad_json_line_is_a_bad_row_and_the_next_is_read(
    tmp_path: Path, line: str, column: str | None, reason: str
) -> None:
    rows = read(tmp_path, '{"a": 1}\n' + line + '\n{"a": 2}\n{"a": 3}', name="a.jsonl")

    (problem,) = bad(rows)
    assert (problem.file, problem.line, problem.column) == ("a.jsonl", 2, column)
    assert reason in problem.reason
    assert [(row.line, row.values) for row in rows if isinstance(row, Row)] == [
        (1, {"a": 1}),
        (3, {"a": 2}),
        (4, {"a": 3}),
    ]


def test_undecodable_bytes_are_placed_by_line_and_offset(tmp_path: Path) -> None:
    good_lines = '{"a": "é"}\n'.encode() * 3
    rows = read(tmp_path, good_lines + b'{"a": "\xe9"}\n' + good_lines, name="a.jsonl")

    offset = len(good_lines) + 7
    assert bad(rows) == [
        RowProblem("a.jsonl", 4, None, f"byte 0xE9 at offset {offset} of the file is not UTF-8")
    ]
    assert len(good(rows)) == 6


def test_half_a_character_of_utf_16_is_a_bad_row(tmp_path: Path) -> None:
    content = "first\nlone \ud800 one\nthird".encode("utf-16", "surrogatepass") + b"\x41"
    rows = read(tmp_path, content, name="a.txt")

    assert good(rows) == [{"text": "first"}]
    assert [(each.line, "surrogate" in each.reason) for each in bad(rows)] == [(2, True), (3, True)]


@pytest.mark.parametrize("kind", list(WRITTEN))
def test_chosen_columns_alone_are_read(tmp_path: Path, kind: str) -> None:
    rows = read(tmp_path, WRITTEN[kind], name=f"a.{kind}", columns=["label"])

    assert good(rows) == [{"label": "x"}, {"label": "y"}]


def test_a_flaw_in_a_column_that_is_not_chosen_does_not_matter(tmp_path: Path) -> None:
    for content, name in (('{"a": 1, "b": NaN}', "a.jsonl"), ("a,b\n1,\0\n", "a.csv")):
        assert not bad(read(tmp_path, content, name=name, columns=["a"]))


def test_elements_of_a_document_are_placed_by_line(tmp_path: Path) -> None:
    content = '[\n  {"a": 1},\n  {\n    "a": NaN\n  }, 5,\n\n  {"a":\n "é"}\n]\n'
    rows = read(tmp_path, content, name="a.json")

    assert [(type(row), row.line) for row in rows] == [
        (Row, 2),
        (RowProblem, 3),
        (RowProblem, 5),
        (Row, 7),
    ]


def test_a_document_larger_than_the_window_reads_in_bounded_memory(tmp_path: Path) -> None:
    expected = [{"n": n, "text": 'é "}],[{' * (n % 50)} for n in range(40_000)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"version": [1], "data": expected, "end": {}}, ensure_ascii=False))
    size = path.stat().st_size
    file_format = sniff(path, name="a.json")

    tracemalloc.start()
    rows = read_rows(path, name="a.json", file_format=file_format)
    same = [row.values == wanted for row, wanted in zip(rows, expected, strict=True)]  # type: ignore[union-attr]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert all(same)
    assert size > 8_000_000
    assert peak < 4_000_000


@pytest.mark.parametrize(
    ("content", "spoken"),
    [
        ('[{"a": 1},\n {"a" 2}]', "line 2, character 7: a colon was expected"),
        ('[{"a": 1},\n {"a": 2}', "line 2, character 10: a comma or the end of the list"),
        ('[{"a": 1},\n {"a": "cu', "line 2, character 8: the string"),
        ('[{"a": 1}\n {"a": 2}]', "line 2, character 2: a comma or the end of the list"),
        ('[{"a": 1},\n]', "line 2, character 1: a value was expected"),
        ('[{"a": 1}\n]\n[{"a": 2}]', "line 3, character 1: the document ends"),
        ('[{"a": ' + "[" * 100_000, "levels deep"),
        ('[{"a": ' + "9" * 5_000 + "}]", "thousands of digits"),
        ('{"train": [{"a": 1}],\n "test": [{"a": 1}]}', "'train' and 'test'"),
        ('{"a": 1,\n "b": [1, 2]}', "without a list of objects"),
    ],
)
def test_a_broken_document_is_an_error_that_names_the_place(
    tmp_path: Path, content: str, spoken: str
) -> None:
    with pytest.raises(DataError, match=spoken):
        read(tmp_path, content, name="a.json")


def test_undecodable_bytes_in_a_document_are_a_bad_row(tmp_path: Path) -> None:
    content = '[{"a": "éé"},\n'.encode() + b'{"a": "\xe9"},\n{"a": "z"}]'
    rows = read(tmp_path, content, name="a.json")

    assert [(each.line, each.column) for each in bad(rows)] == [(2, "a")]
    assert good(rows) == [{"a": "éé"}, {"a": "z"}]


def test_a_row_beyond_the_limit_is_an_error_that_names_its_line(tmp_path: Path) -> None:
    limits = Limits(max_row_bytes=1_000)
    long = "x" * 1_000_000
    for content, name, line in (
        (f'{{"a": 1}}\n{{"a": "{long}"}}\n', "a.jsonl", 2),
        (f"a\nb\nc {long}", "a.txt", 3),
        (f'[{{"a": 1}},\n\n{{"a": "{long}"}}]', "a.json", 3),
        ('a,b\n1,2\n"3,4\n' + "5,6\n" * 1_000, "a.csv", 3),
    ):
        with pytest.raises(DataError, match=rf"line {line} has more than 1,000 bytes"):
            read(tmp_path, content, name=name, limits=limits)


_VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


_OBJECTS = st.lists(st.dictionaries(TEXT, _VALUE, max_size=5), min_size=1, max_size=8)


@quick
@given(rows=_OBJECTS, ascii_only=st.booleans())
def test_json_lines_round_trip(
    tmp_path: Path, rows: list[dict[str, Any]], ascii_only: bool
) -> None:
    content = as_jsonl(rows, ensure_ascii=ascii_only)

    assert good(read(tmp_path, content, name="a.jsonl")) == rows


@quick
@given(rows=_OBJECTS, indent=st.sampled_from([None, 2]))
def test_json_document_round_trips(
    tmp_path: Path, rows: list[dict[str, Any]], indent: int | None
) -> None:
    content = json.dumps(rows, indent=indent, ensure_ascii=False)

    assert good(read(tmp_path, content, name="a.json")) == rows


@quick
@given(content=st.binary(max_size=300), name=st.sampled_from(["a", "a.csv", "a.jsonl", "a.json"]))
def test_any_bytes_give_rows_or_one_of_our_errors(
    tmp_path: Path, content: bytes, name: str
) -> None:
    with contextlib.suppress(DataError):
        found = described(tmp_path, content, name=name)
        json.dumps(found.to_dict(), ensure_ascii=False).encode()
