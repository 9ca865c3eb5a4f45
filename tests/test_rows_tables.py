"""The rows of CSV, TSV and Parquet."""

import csv
import io
import string
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.row_files import (
    TEXT,
    WRITTEN,
    as_parquet,
    bad,
    good,
    quick,
    read,
)
from trainer_core.errors import DataError, RowProblem, UnknownColumn
from trainer_core.rows import Limits, Row


def test_undecodable_bytes_of_a_table_name_the_column(tmp_path: Path) -> None:
    content = b"text,label\n" + "é,1\n".encode() * 9 + b"x,\xe9\n" + b"y,2\n"
    (problem,) = bad(read(tmp_path, content, name="a.csv"))

    assert (problem.line, problem.column) == (11, "label")
    assert "byte 0xE9 at offset" in problem.reason


def test_embedded_newlines_keep_physical_lines(tmp_path: Path) -> None:
    content = 'text,label\r\n"one\r\ntwo\r\n\r\nthree",a\r\n\r\nshort,b\r\nwrong\r\nlast,c\r\n'
    rows = read(tmp_path, content, name="a.csv")

    assert rows == [
        Row(2, {"text": "one\r\ntwo\r\n\r\nthree", "label": "a"}),
        Row(7, {"text": "short", "label": "b"}),
        RowProblem("a.csv", 8, None, "expected 2 fields, found 1"),
        Row(9, {"text": "last", "label": "c"}),
    ]


@pytest.mark.parametrize(
    ("record", "column", "reason"),
    [
        ("a,b,c", None, "expected 2 fields, found 3; quote a value that holds ','"),
        ("a", None, "expected 2 fields, found 1"),
        ('"a"b,c', None, "text follows a closing quote"),
        ("a\rb,c", None, "carriage return"),
        ("x\0y,1", "text", "NUL"),
        ("x,\0", "label", "NUL"),
    ],
)
def test_a_bad_record_is_a_bad_row_and_the_next_is_read(
    tmp_path: Path, record: str, column: str | None, reason: str
) -> None:
    rows = read(tmp_path, f"text,label\nfirst,1\n{record}\nlast,2\n", name="a.csv")

    (problem,) = bad(rows)
    assert (problem.line, problem.column) == (3, column)
    assert reason in problem.reason
    assert [values["text"] for values in good(rows)] == ["first", "last"]


def test_an_unclosed_quote_is_placed_where_its_record_starts(tmp_path: Path) -> None:
    rows = read(tmp_path, 'text,label\na,1\n"b,2\nc,3\nd,4\n', name="a.csv")

    assert rows == [
        Row(2, {"text": "a", "label": "1"}),
        RowProblem(
            "a.csv",
            3,
            None,
            "a quote is opened and never closed (lines 3 to 5 were read as one row)",
        ),
    ]


def test_a_spreadsheet_export_reads(tmp_path: Path) -> None:
    content = "\ufeffsep=;\r\n text ;label;;\r\na, b;x;;\r\n;;;\r\nc;y\r\nd;z;;stray\r\n;;;\r\n"
    rows = read(tmp_path, content, name="export.csv")

    assert rows == [
        Row(3, {"text": "a, b", "label": "x"}),
        Row(5, {"text": "c", "label": "y"}),
        RowProblem("export.csv", 6, None, "there is a value after the last named column, 'label'"),
    ]


def test_quoted_empty_values_are_a_row(tmp_path: Path) -> None:
    rows = read(tmp_path, 'text,label\n"",""\n,\n', name="a.csv")

    assert rows == [Row(2, {"text": "", "label": ""})]


def test_old_macintosh_line_ends_count_as_lines(tmp_path: Path) -> None:
    rows = read(tmp_path, "text,label\ra,1\rb\rc,3\r", name="a.csv")

    assert [(type(row), row.line) for row in rows] == [(Row, 2), (RowProblem, 3), (Row, 4)]


def test_a_long_field_reads(tmp_path: Path) -> None:
    long = "word " * 100_000  # the csv module alone stops at 131,072 characters

    assert good(read(tmp_path, f'text,label\n"{long}",1\n', name="a.csv"))[0]["text"] == long


@pytest.mark.parametrize(
    ("header", "spoken"),
    [
        ("text,,label", "no name for column 2"),
        ("text,label,text", "two columns named 'text'"),
        ("text,la\0bel", "NUL"),
        ('text,"la"bel', "column names can't be read"),
        (",".join(f"c{n}" for n in range(1001)), "1,001 columns"),
        ("text," + "n" * 300, "300 characters"),
    ],
)
def test_an_unusable_header_is_an_error_that_names_it(
    tmp_path: Path, header: str, spoken: str
) -> None:
    with pytest.raises(DataError, match=spoken):
        read(tmp_path, f"{header}\na,b,c\n", name="a.csv")


def test_a_table_without_header_gets_column_names(tmp_path: Path) -> None:
    rows = read(tmp_path, "a,1\nb,2\n", name="a.csv", has_header=False)

    assert rows == [
        Row(1, {"column_1": "a", "column_2": "1"}),
        Row(2, {"column_1": "b", "column_2": "2"}),
    ]


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_an_unknown_column_of_a_table_is_an_error(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UnknownColumn, match=r"no column 'intent'.*text, label"):
        read(tmp_path, WRITTEN[kind], name=f"a.{kind}", columns=["intent"])


def test_parquet_values_become_values_of_json(tmp_path: Path) -> None:
    table = pa.table(
        {
            "day": [date(2024, 2, 29)],
            "at": pa.array([datetime(2024, 2, 29, 1, tzinfo=UTC)], pa.timestamp("ns", tz="UTC")),
            "price": [Decimal("1.50")],
            "kind": pa.array(["x"]).dictionary_encode(),
            "nested": [{"list": [1, None], "flag": True}],
            "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
            "image": [b"\x00\x01"],
        }
    )

    assert read(tmp_path, as_parquet(table), name="a.parquet") == [
        Row(
            1,
            {
                "day": "2024-02-29",
                "at": "2024-02-29T01:00:00+00:00",
                "price": 1.5,
                "kind": "x",
                "nested": {"list": [1, None], "flag": True},
                "map": [["k", 1]],
                "image": b"\x00\x01",
            },
        )
    ]


def test_bad_parquet_values_are_placed_by_row(tmp_path: Path) -> None:
    invalid = pa.Array.from_buffers(
        pa.string(), 4, pa.array([b"ok", b"x\0y", b"\xe9", b"ok"], pa.binary()).buffers()
    )
    table = pa.table({"text": invalid, "score": [1.0, 2.0, 3.0, float("nan")]})
    rows = read(tmp_path, as_parquet(table), name="a.parquet")

    assert [(row.line, row.column) for row in bad(rows)] == [(2, "text"), (3, "text"), (4, "score")]
    assert good(rows) == [{"text": "ok", "score": 1.0}]


def test_a_damaged_parquet_file_is_an_error(tmp_path: Path) -> None:
    table = pa.table({"text": [f"row {n}" for n in range(20_000)]})
    whole = as_parquet(table, compression="gzip", write_page_checksum=True)
    damaged = bytearray(whole)
    damaged[5_000:5_100] = b"\xff" * 100

    for content in (whole[:-1], whole[: len(whole) // 2], b"PAR1", bytes(damaged)):
        with pytest.raises(DataError, match="damaged or cut-off Parquet"):
            read(tmp_path, content, name="a.parquet")


def test_a_parquet_file_of_run_lengths_is_bounded(tmp_path: Path) -> None:
    table = pa.table({"a": pa.nulls(1_000_000, pa.int64())})

    with pytest.raises(DataError, match="more than 100,000 bytes"):
        read(
            tmp_path,
            as_parquet(table),
            name="a.parquet",
            limits=Limits(max_ratio=1, ratio_free_bytes=100_000),
        )


def test_parquet_without_usable_columns_is_an_error(tmp_path: Path) -> None:
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    with pytest.raises(DataError, match="two columns named 'a'"):
        read(tmp_path, as_parquet(twice), name="a.parquet")
    with pytest.raises(DataError, match="no columns"):
        read(tmp_path, as_parquet(pa.table({})), name="a.parquet")


@quick
@given(
    rows=st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=8),
    names=st.lists(
        st.text(string.ascii_letters, min_size=1, max_size=8), min_size=3, max_size=3, unique=True
    ),
    dialect=st.sampled_from([(",", "\r\n"), (",", "\n"), ("\t", "\n")]),
)
def test_csv_round_trips_with_its_physical_lines(
    tmp_path: Path, rows: list[tuple[str, ...]], names: list[str], dialect: tuple[str, str]
) -> None:
    delimiter, line_end = dialect
    text = io.StringIO(newline="")
    writer = csv.writer(
        text, delimiter=delimiter, lineterminator=line_end, quoting=csv.QUOTE_NONNUMERIC
    )
    starts = []
    writer.writerow(names)
    for row in rows:
        starts.append(text.getvalue().count("\n") + 1)
        writer.writerow(row)

    found = read(tmp_path, text.getvalue(), name="a.csv" if delimiter == "," else "a.tsv")

    assert good(found) == [dict(zip(names, row, strict=True)) for row in rows]
    assert [row.line for row in found] == starts
