"""What calls about data sets, models, tasks and validations return."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from luthier.client.values import JobError


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a data set."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that can't be read."""

    file: str
    line: int  # physical line, from 1
    column: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """An uploaded file of rows."""

    id: str
    name: str
    format: str
    size_bytes: int
    sha256: str
    num_rows: int
    created_at: datetime
    encoding: str | None = None
    compression: str | None = None
    columns: tuple[Column, ...] = ()
    num_bad_rows: int = 0
    bad_rows: tuple[BadRow, ...] = ()  # the first 100
    notes: tuple[str, ...] = ()
    has_header: bool = True


@dataclass(frozen=True, slots=True)
class Preview:
    """The first rows of a data set."""

    columns: tuple[Any, ...]
    rows: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Model:
    """A registered base model: a folder of the server, or a repository of the Hub."""

    name: str
    created_at: datetime
    path: str | None = None
    hub: str | None = None
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """Something that can be trained."""

    task: str
    summary: str
    schema: Mapping[str, Any] | None = None  # JSON schema of the spec; of `tasks.get` only
    defaults: Mapping[str, Any] | None = None  # of `tasks.get` only
    example: Mapping[str, Any] | None = None  # of `tasks.get` only
    metrics: tuple[str, ...] = ()  # the one that chooses the best model first


@dataclass(frozen=True, slots=True)
class Validation:
    """Everything that is wrong with a job, and what it would do."""

    is_valid: bool  # a submission would be accepted, and nothing is known for which it would fail
    errors: tuple[JobError, ...] = ()
    warnings: tuple[Mapping[str, Any], ...] = ()
    missing: tuple[Mapping[str, Any], ...] = ()  # what the service could not find out, and why
    files: tuple[Mapping[str, Any], ...] = ()
    rows: Mapping[str, Any] | None = None
    tokens: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)  # by split
    examples: tuple[Mapping[str, Any], ...] = ()  # rows as the model reads them
    num_weights: int | None = None
    num_trained_weights: int | None = None
    estimates: tuple[Mapping[str, Any], ...] = ()  # one for each kind of device of the workers
    workers: tuple[Mapping[str, Any], ...] = ()  # whether the job fits each
