"""Writing small uploads and reading them back."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from trainer_core.errors import RowProblem
from trainer_core.rows import Description, Row, describe, read_rows, sniff

ROWS = [{"text": "a", "label": "x"}, {"text": "b, c", "label": "y"}]


def read(
    folder: Path, content: bytes | str, *, name: str, **options: Any
) -> list[Row | RowProblem]:
    path = folder / "upload"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_rows(path, name=name, file_format=sniff(path, name=name), **options))


def good(rows: Sequence[Row | RowProblem]) -> list[dict[str, Any]]:
    return [row.values for row in rows if isinstance(row, Row)]


def bad(rows: Sequence[Row | RowProblem]) -> list[RowProblem]:
    return [row for row in rows if isinstance(row, RowProblem)]


def described(folder: Path, content: bytes | str, *, name: str) -> Description:
    path = folder / "upload"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return describe(path, name=name)


def as_csv(rows: Sequence[dict[str, Any]], **options: Any) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), **options)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_jsonl(rows: Sequence[dict[str, Any]], **options: Any) -> str:
    return "".join(json.dumps(row, **options) + "\n" for row in rows)


def as_parquet(table: pa.Table, **options: Any) -> bytes:
    data = io.BytesIO()
    pq.write_table(table, data, **options)
    return data.getvalue()


WRITTEN = {
    "jsonl": as_jsonl(ROWS).encode(),
    "json": json.dumps(ROWS).encode(),
    "csv": as_csv(ROWS).encode(),
    "tsv": as_csv(ROWS, delimiter="\t").encode(),
    "parquet": as_parquet(pa.Table.from_pylist(ROWS)),
}

# What every format can hold.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)

quick = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
