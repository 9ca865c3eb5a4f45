"""Rows from Parquet, batch by batch."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any, BinaryIO

from trainer_core.errors import DataError, RowProblem
from trainer_core.rows.lines import Source
from trainer_core.rows.streams import MIB, allowed_bytes, read_chunks, too_large
from trainer_core.rows.values import Row, check_known, check_names, find_flaw

MIN_BATCH_ROWS, MAX_BATCH_ROWS = 16, 1024
# A dictionary page lets a few bytes stand for a long value in every row, so a batch has fewer rows
# where a column is large enough to hold such a value.
MAX_BATCH_BYTES = 256 * MIB


def read_parquet(source: Source, *, columns: Sequence[str] | None) -> Iterator[Row | RowProblem]:
    """Yield the rows; times, decimals and UUIDs as JSON would have them, binary values as bytes.

    Raises:
        DataError: the file is damaged, cut off, or holds more than it may.
    """
    with _open_parquet(source) as file:
        names = _names(file, source)
        check_known(columns or (), names, file=source.name)
        wanted = [name for name in names if columns is None or name in columns]
        number = 0
        for batch in _read_batches(file, wanted, source):
            with _told_as_data_errors(source):
                values = [_column_values(batch.column(name)) for name in wanted]
            for fields in zip(*values, strict=True):
                number += 1
                row = dict(zip(wanted, fields, strict=True))
                flaw = find_flaw(row, scan_strings=True)
                if flaw is None:
                    yield Row(number, row)
                else:
                    yield RowProblem(source.name, number, flaw.column, flaw.reason)


def read_parquet_columns(source: Source) -> tuple[str, ...]:
    """Return the names of the columns."""
    with _open_parquet(source) as file:
        return _names(file, source)


@contextmanager
def _open_parquet(source: Source) -> Iterator[Any]:
    import pyarrow.parquet

    with _seekable(source) as data:
        with _told_as_data_errors(source):
            file = pyarrow.parquet.ParquetFile(
                data, pre_buffer=False, page_checksum_verification=True
            )
        with file:
            yield file


@contextmanager
def _seekable(source: Source) -> Iterator[BinaryIO]:
    """Open the file, unpacked if it is compressed as a whole: Parquet is read from its end."""
    if source.file_format.compression == "none":
        with source.path.open("rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as unpacked:
        for chunk in read_chunks(
            source.path,
            name=source.name,
            compression=source.file_format.compression,
            limits=source.limits,
        ):
            unpacked.write(chunk)
        unpacked.seek(0)
        yield unpacked


@contextmanager
def _told_as_data_errors(source: Source) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's fault, not the file's
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"{source.name} is a damaged or cut-off Parquet file: {reason}",
            hint="Upload it again, or write it again.",
        ) from error


def _names(file: Any, source: Source) -> tuple[str, ...]:
    with _told_as_data_errors(source):
        names = tuple(str(name) for name in file.schema_arrow.names)
    if not names:
        raise DataError(f"{source.name} has no columns.", hint="Write the rows with columns.")
    check_names(names, file=source.name)
    return names


def _read_batches(file: Any, columns: Sequence[str], source: Source) -> Iterator[Any]:
    allowed = allowed_bytes(source.path, compression="parquet", limits=source.limits)
    num_bytes = 0
    with _told_as_data_errors(source):
        batches = file.iter_batches(
            batch_size=_batch_rows(file.metadata), columns=columns, use_threads=False
        )
    while True:
        with _told_as_data_errors(source):
            batch = next(batches, None)
        if batch is None:
            return
        # Run lengths make nulls free, but each still costs a value here.
        num_bytes += max(batch.nbytes, batch.num_rows * batch.num_columns)
        if num_bytes > allowed:
            raise too_large(source.name, allowed=allowed)
        yield batch


def _batch_rows(metadata: Any) -> int:
    largest = 1
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for column in range(row_group.num_columns):
            largest = max(largest, row_group.column(column).total_uncompressed_size)
    return max(MIN_BATCH_ROWS, min(MAX_BATCH_ROWS, MAX_BATCH_BYTES // largest))


def _column_values(column: Any) -> list[Any]:
    import pyarrow as pa

    column_type = column.type
    if pa.types.is_timestamp(column_type) and column_type.unit == "ns":
        # Python's datetime has no nanoseconds.
        column = column.cast(pa.timestamp("us", tz=column_type.tz), safe=False)
    try:
        values = column.to_pylist()
    except UnicodeDecodeError:
        values = [_decoded(scalar) for scalar in column]
    return values if _is_plain(column_type) else [_to_plain(value) for value in values]


def _decoded(scalar: Any) -> object:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return "\udcff"  # a lone surrogate, which makes this row a bad one


def _is_plain(kind: Any) -> bool:
    """Return whether the values of an Arrow type come as JSON's types."""
    from pyarrow import types

    if types.is_list(kind) or types.is_large_list(kind):
        return _is_plain(kind.value_type)
    if types.is_struct(kind):
        return all(_is_plain(kind.field(place).type) for place in range(kind.num_fields))
    checks = (
        types.is_string,
        types.is_large_string,
        types.is_integer,
        types.is_floating,
        types.is_boolean,
        types.is_null,
    )
    return any(check(kind) for check in checks)


def _to_plain(value: Any) -> Any:
    plain: Any = value
    match value:
        case None | bool() | int() | float() | str() | bytes():
            pass
        case list() | tuple():
            plain = [_to_plain(each) for each in value]
        case dict():
            plain = {name: _to_plain(each) for name, each in value.items()}
        case Decimal():
            is_whole = value.is_finite() and value.as_tuple().exponent == 0
            plain = int(value) if is_whole else float(value)
        case date() | time():
            plain = value.isoformat()
        case timedelta():
            plain = value.total_seconds()
        case _:
            plain = str(value)
    return plain
