"""What is answered of data sets and of those that come in parts."""

from collections.abc import Sequence
from typing import Literal

from api.schemas import Json, Schema, Timestamp
from jobs.records import Dataset as StoredDataset
from jobs.records import Upload as StoredUpload
from jobs.records import UploadPart as StoredPart


class Column(Schema):
    """A column of a data set."""

    name: str
    type: str


class BadRow(Schema):
    """A row that can't be read."""

    file: str
    line: int
    """Physical line, from 1; for Parquet the row."""
    column: str | None
    reason: str


class Dataset(Schema):
    """An uploaded file of rows."""

    id: str
    name: str
    format: str
    """jsonl, json, csv, tsv, conll, parquet or text, as its content shows."""
    encoding: str
    compression: str
    size_bytes: int
    sha256: str
    num_rows: int
    """Rows that can be read."""
    columns: list[Column]
    num_bad_rows: int
    bad_rows: list[BadRow]
    """The first 100."""
    notes: list[str]
    """What was assumed, or is surprising."""
    has_header: bool
    created_at: Timestamp

    @classmethod
    def of(cls, dataset: StoredDataset) -> "Dataset":
        """Return a stored data set."""
        found = dataset.description
        names = ("num_rows", "columns", "num_bad_rows", "bad_rows")
        return cls(
            id=dataset.id,
            name=dataset.name,
            format=found["format"]["kind"],
            encoding=found["format"]["encoding"],
            compression=found["format"]["compression"],
            size_bytes=dataset.size_bytes,
            sha256=dataset.sha256,
            notes=found["format"]["notes"],
            has_header=dataset.has_header,
            created_at=dataset.created_at,
            **{name: found[name] for name in names},
        )


class DatasetPage(Schema):
    """Data sets, newest first."""

    data: list[Dataset]
    has_more: bool


class UploadedPart(Schema):
    """A part of an upload that has come."""

    number: int
    """From 1."""
    size_bytes: int
    sha256: str


class Upload(Schema):
    """A data set that comes in parts."""

    id: str
    name: str
    size_bytes: int
    """As announced, like the next two."""
    sha256: str
    has_header: bool
    state: Literal["pending", "completed", "cancelled"]
    dataset_id: str | None
    """Once it is completed."""
    parts: list[UploadedPart]
    """Those that have come, by number; none once it is completed."""
    created_at: Timestamp
    expires_at: Timestamp
    """Until when the next part is taken."""

    @classmethod
    def of(cls, upload: StoredUpload, parts: Sequence[StoredPart]) -> "Upload":
        """Return an upload with its parts."""
        same = cls.model_fields.keys() - {"dataset_id", "parts"}
        values = {name: getattr(upload, name) for name in same}
        shown = [UploadedPart.model_validate(part) for part in parts]
        return cls(**values, dataset_id=upload.file_id, parts=shown)


class Preview(Schema):
    """The first rows of a data set, long values cut."""

    columns: list[Column]
    rows: list[Json]
