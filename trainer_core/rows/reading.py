"""The rows of a file, one after another, whatever its format."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import assert_never

from trainer_core.errors import RowProblem
from trainer_core.rows.conll_rows import CONLL_COLUMNS, read_conll
from trainer_core.rows.csv_rows import read_header, read_table
from trainer_core.rows.formats import FileFormat
from trainer_core.rows.json_document import read_json_document
from trainer_core.rows.json_rows import read_json_lines
from trainer_core.rows.lines import Source, read_line_blocks
from trainer_core.rows.parquet_rows import read_parquet, read_parquet_columns
from trainer_core.rows.streams import DEFAULT_LIMITS, Limits
from trainer_core.rows.values import Row, check_known, string_flaw

__all__ = ["TEXT_COLUMN", "Row", "read_column_names", "read_rows"]

TEXT_COLUMN = "text"


def read_rows(
    path: Path,
    *,
    name: str,
    file_format: FileFormat,
    columns: Sequence[str] | None = None,
    has_header: bool = True,
    limits: Limits = DEFAULT_LIMITS,
) -> Iterator[Row | RowProblem]:
    """Yield each row of a file, or what is wrong with it, in memory that its size does not change.

    Args:
        path: where the file is.
        name: what the user calls it; problems say this name.
        file_format: what `sniff` returned.
        columns: read these alone, and judge rows by these alone; all if None. A row of JSON that
            lacks one is yielded without it.
        has_header: for CSV and TSV: the first record names the columns. If False they are called
            column_1, column_2 and so on.
        limits: how much the file and a row may hold.

    Raises:
        UnknownColumn: a table has no such column.
        DataError: the file as a whole can't be read: damaged, cut off, too large, a table without
            usable column names, a JSON document that breaks off. Rows before that were yielded.
    """
    source = Source(path, name, file_format, limits)
    wanted = None if columns is None else frozenset(columns)
    match file_format.kind:
        case "jsonl":
            return read_json_lines(source, columns=wanted)
        case "json":
            return read_json_document(source, columns=wanted)
        case "csv" | "tsv":
            return read_table(source, columns=columns, has_header=has_header)
        case "conll":
            return read_conll(source, columns=columns)
        case "parquet":
            return read_parquet(source, columns=columns)
        case "text":
            return _read_text_lines(source, columns=columns)
        case _:
            assert_never(file_format.kind)


def read_column_names(
    path: Path,
    *,
    name: str,
    file_format: FileFormat,
    has_header: bool = True,
    limits: Limits = DEFAULT_LIMITS,
) -> tuple[str, ...]:
    """Return the columns that the file names before its first row; none for JSON."""
    source = Source(path, name, file_format, limits)
    match file_format.kind:
        case "csv" | "tsv":
            return read_header(source, has_header=has_header)
        case "parquet":
            return read_parquet_columns(source)
        case "conll":
            return CONLL_COLUMNS
        case "text":
            return (TEXT_COLUMN,)
        case "json" | "jsonl":
            return ()
        case _:
            assert_never(file_format.kind)


def _read_text_lines(
    source: Source, *, columns: Sequence[str] | None
) -> Iterator[Row | RowProblem]:
    check_known(columns or (), (TEXT_COLUMN,), file=source.name)
    for block in read_line_blocks(source):
        for number, line in enumerate(block.lines, block.first_line):
            if not line or line.isspace():
                continue
            reason = block.flaws.get(number)
            if reason is None and "\0" in line:
                reason = f"the text holds {string_flaw(line)}"
            if reason is None:
                yield Row(number, {TEXT_COLUMN: line.removesuffix("\r")})
            else:
                yield RowProblem(source.name, number, TEXT_COLUMN, reason)
