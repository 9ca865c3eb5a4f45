"""What an upload holds, as its owner is told."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.row_files import as_jsonl, as_parquet, described
from trainer_core.errors import DataError
from trainer_core.rows import Description


def test_description_says_what_a_file_holds(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {
            "text": "é" * 5_000,
            "n": 1,
            "score": 1,
            "tags": ["a"],
            "ok": True,
            "mix": 1,
            "none": None,
        },
        {"text": None, "n": 2, "score": 0.5, "tags": [], "ok": None, "mix": "a", "late": {"a": 1}},
    ]
    found = described(tmp_path, as_jsonl(rows) + "broken\n", name="a.jsonl")

    assert [(column.name, column.type) for column in found.columns] == [
        ("text", "string"),
        ("n", "integer"),
        ("score", "number"),
        ("tags", "list"),
        ("ok", "boolean"),
        ("mix", "mixed"),
        ("none", "null"),
        ("late", "object"),
    ]
    assert (found.num_rows, found.num_bad_rows) == (2, 1)
    assert found.bad_rows[0].line == 3
    assert found.preview[0]["text"] == "é" * 1_000 + "…"
    assert found.preview[1] == rows[1]


def test_description_keeps_the_first_hundred_bad_rows_and_twenty_good_ones(tmp_path: Path) -> None:
    found = described(tmp_path, '{"a": 1}\n{"a": }\n' * 300, name="a.jsonl")

    assert (found.num_rows, found.num_bad_rows) == (300, 300)
    assert [problem.line for problem in found.bad_rows] == list(range(2, 201, 2))
    assert found.preview == ({"a": 1},) * 20


def test_description_cuts_large_nested_values(tmp_path: Path) -> None:
    row = {"ids": list(range(100_000)), "chat": [{"role": "user", "content": "hi " * 9_000}]}
    found = described(tmp_path, json.dumps(row), name="a.jsonl")

    assert len(found.preview[0]["ids"]) == 1_001
    assert found.preview[0]["chat"][0]["content"] == ("hi " * 9_000)[:1_000] + "…"


def test_description_survives_json(tmp_path: Path) -> None:
    table = pa.table({"text": ["a"], "image": [b"\x00"], "at": [datetime(2024, 1, 1, tzinfo=UTC)]})
    for content, name in ((as_parquet(table), "a.parquet"), ("a;b\n1;2\n3\n", "a.csv")):
        found = described(tmp_path, content, name=name)
        assert Description.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize(
    ("content", "name", "columns"),
    [
        ("text,label\n", "a.csv", ["text", "label"]),
        ("text;label\r\n;\r\n", "a.csv", ["text", "label"]),
        (as_parquet(pa.table({"text": pa.array([], pa.string())})), "a.parquet", ["text"]),
        ("[]", "a.json", []),
        ("not json\n{nor this}\n", "a.jsonl", []),
        ("a,b\n1\n2\n", "a.csv", ["a", "b"]),
        ("a\0b", "a.txt", ["text"]),
    ],
)
def test_a_file_without_a_good_row_is_still_described(
    tmp_path: Path, content: bytes | str, name: str, columns: list[str]
) -> None:
    found = described(tmp_path, content, name=name)

    assert found.num_rows == 0
    assert [column.name for column in found.columns] == columns


def test_rows_with_ever_new_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="more than 1,000 different keys"):
        described(tmp_path, as_jsonl([{f"key {n}": 1} for n in range(1_001)]), name="a.jsonl")


def test_the_deepest_row_that_is_accepted_is_described(tmp_path: Path) -> None:
    deepest = '{"a": ' + "[" * 98 + "]" * 98 + "}"
    found = described(tmp_path, deepest, name="a.jsonl")

    assert found.num_rows == 1
    assert Description.from_dict(found.to_dict()) == found
