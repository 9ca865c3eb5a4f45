"""Rows from CSV and TSV, whose records can span lines, with the line on which each starts."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from trainer_core.errors import DataError, RowProblem
from trainer_core.rows.lines import Source, read_line_blocks, too_long
from trainer_core.rows.values import Flaw, Row, check_known, check_names, find_flaw


@dataclass(slots=True)
class _Record:
    """What is known of the record that is being read."""

    line: int = 1
    last_line: str = ""  # the text of the last of its lines
    num_characters: int = 0
    undecodable: str | None = None
    has_nul: bool = False


@dataclass(frozen=True, slots=True)
class _Header:
    """The columns of a table."""

    names: tuple[str, ...]
    num_fields: int  # with the unnamed columns that spreadsheets leave at the end


def read_table(
    source: Source, *, columns: Sequence[str] | None, has_header: bool
) -> Iterator[Row | RowProblem]:
    """Yield a row for each record that is not blank; values stay strings.

    Raises:
        DataError: the header is missing or ambiguous, or a record is too long.
    """
    record = _Record()
    records = _read_records(source, record=record)
    first = next(records, None)
    if first is None:
        return
    header = _to_header(first, record, source, has_header=has_header)
    check_known(columns or (), header.names, file=source.name)
    wanted = [
        (place, name)
        for place, name in enumerate(header.names)
        if columns is None or name in columns
    ]
    for fields in records if has_header else chain((first,), records):
        row = _to_row(fields, record, header, wanted, delimiter=source.file_format.delimiter)
        if isinstance(row, Flaw):
            yield RowProblem(source.name, record.line, row.column, row.reason)
        else:
            yield row


def read_header(source: Source, *, has_header: bool) -> tuple[str, ...]:
    """Return the names of the columns."""
    record = _Record()
    first = next(_read_records(source, record=record), None)
    return _to_header(first, record, source, has_header=has_header).names if first else ()


def _read_records(source: Source, *, record: _Record) -> Iterator[list[str] | Flaw]:
    """Yield the fields of each record that is not blank, or what breaks it, and fill `record`."""
    delimiter = source.file_format.delimiter or ","
    # What spreadsheets leave of an empty row: nothing but delimiters.
    blank = " \t\r\n" + delimiter
    reader = csv.reader(_feed(source, record=record), delimiter=delimiter, strict=True)
    is_first = True
    while True:
        record.line = reader.line_num + 1
        record.num_characters, record.undecodable, record.has_nul = 0, None, False
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Flaw(None, _spoken(str(error), record.line, reader.line_num))
            continue
        if not record.last_line.strip(blank):
            continue
        if is_first and len(fields) == 2 and fields[0].lower() == "sep=" and not fields[1]:
            continue  # Excel's way to name the delimiter
        is_first = False
        yield fields


def _feed(source: Source, *, record: _Record) -> Iterator[str]:
    """Yield the lines with their ends, and note in `record` what they hold."""
    limit = source.limits.max_row_bytes
    for block in read_line_blocks(source):
        for number, text in enumerate(block.lines, block.first_line):
            record.last_line = text
            record.num_characters += len(text)
            if record.num_characters > limit:
                hint = "Look there for a quote that is never closed, or split the record."
                raise too_long(source, line=record.line, unit="record", hint=hint)
            if block.flaws and number in block.flaws:
                record.undecodable = record.undecodable or block.flaws[number]
            if "\0" in text:
                record.has_nul = True
            yield text + "\n"


def _spoken(error: str, line: int, last_line: int) -> str:
    place = "" if line == last_line else f" (lines {line:,} to {last_line:,} were read as one row)"
    if error == "unexpected end of data":
        return f"a quote is opened and never closed{place}"
    if "expected after" in error:
        return f"text follows a closing quote; a quote inside a value is written twice{place}"
    if error.startswith("new-line character"):
        return f"a carriage return stands outside quotes{place}"
    return f"{error}{place}"


def _to_header(
    fields: list[str] | Flaw, record: _Record, source: Source, *, has_header: bool
) -> _Header:
    reason = fields.reason if isinstance(fields, Flaw) else record.undecodable
    if isinstance(fields, Flaw) or reason:
        raise DataError(
            f"{source.name}, line {record.line}: the column names can't be read: {reason}.",
            hint="Mend the first line of the file.",
        )
    if not has_header:
        return _Header(tuple(f"column_{n}" for n in range(1, len(fields) + 1)), len(fields))
    names = [field.strip() for field in fields]
    while len(names) > 1 and not names[-1]:
        names.pop()
    check_names(names, file=source.name)
    return _Header(tuple(names), len(fields))


def _to_row(
    fields: list[str] | Flaw,
    record: _Record,
    header: _Header,
    wanted: Sequence[tuple[int, str]],
    *,
    delimiter: str | None,
) -> Row | Flaw:
    if isinstance(fields, Flaw):
        return fields
    num_names = len(header.names)
    if len(fields) not in (num_names, header.num_fields):
        hint = f"; quote a value that holds {delimiter!r}" if len(fields) > num_names else ""
        return Flaw(None, f"expected {num_names} fields, found {len(fields):,}{hint}")
    if len(fields) > num_names and any(fields[num_names:]):
        return Flaw(None, f"there is a value after the last named column, '{header.names[-1]}'")
    values = {name: fields[place] for place, name in wanted}
    if record.has_nul or record.undecodable:
        flaw = find_flaw(values, scan_strings=True)
        if flaw is not None:
            return Flaw(flaw.column, record.undecodable or flaw.reason)
    return Row(record.line, values)
