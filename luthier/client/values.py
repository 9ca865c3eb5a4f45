"""What the client's calls return: frozen values with the names of the HTTP API.

A field that a newer service adds is ignored.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from luthier.client.errors import UnexpectedReply

if TYPE_CHECKING:
    from pandas import DataFrame

FINAL_STATES = frozenset({"succeeded", "failed", "cancelled"})
OWNER = "owner"  # field of a value that makes calls of its own
JSON_NAME = "json"  # metadata of a field: its name in the API; None where the API has none
T = TypeVar("T")


class Unset(Enum):
    """What an argument is that was not given, where None means something."""

    UNSET = "unset"


UNSET = Unset.UNSET


@dataclass(frozen=True, slots=True)
class JobProgress:
    """How far training has come."""

    step: int
    max_steps: int
    epoch: float = 0.0
    num_tokens: int = 0
    loss: float | None = None
    eta_seconds: float | None = None  # to the end of training


@dataclass(frozen=True, slots=True)
class BestModel:
    """Where the model that is handed out comes from."""

    step: int | None
    metrics: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed."""

    code: str
    message: str
    hint: str = ""
    whose: str = "system"  # user, data, capacity or system: who can mend it
    retryable: bool = False
    param: str | None = None
    detail: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobAttempt:
    """One worker's try at a job."""

    number: int
    worker: str
    started_at: datetime
    finished_at: datetime | None = None
    reason: str | None = None
    first_step: int | None = None
    last_step: int | None = None
    steps_lost: int | None = None


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file that a job made."""

    path: str  # below the model directory
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Push:
    """A push of a model of a job to the Hub."""

    number: int  # from 1, within the job
    repo: str
    state: str  # pending, pushed or failed
    created_at: datetime
    checkpoint: str | None = None  # whose model it is; None for the finished one
    private: bool = True
    branch: str | None = None  # None for the main one
    tag: str | None = None
    num_tries: int = 0
    url: str | None = None
    commit: str | None = None
    error: JobError | None = None  # of a push that has failed, or of its latest try
    finished_at: datetime | None = None

    @property
    def is_final(self) -> bool:
        """Whether it is over."""
        return self.state != "pending"


@dataclass(frozen=True, slots=True)
class JobFields:
    """A fine-tuning job, as the service tells of it."""

    id: str
    task: str
    model: str
    state: str
    spec: Mapping[str, Any]
    created_at: datetime
    parent_id: str | None = None  # the job that it was cloned from, or tries again
    sweep_id: str | None = None
    name: str | None = None
    notes: str | None = None
    phase: str | None = None
    queue_position: int | None = None  # from 1, while queued
    start_estimate_seconds: float | None = None  # while queued, where it can be told
    attempt: int = 0
    max_attempts: int = 1
    priority: int = 0
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    resolved: Mapping[str, Any] | None = None
    progress: JobProgress | None = None
    # The latest measurement of each split. `metrics()` of a job returns all of them.
    latest_metrics: Mapping[str, Mapping[str, Any]] = dataclasses.field(
        default_factory=dict, metadata={JSON_NAME: "metrics"}
    )
    best: BestModel | None = None
    error: JobError | None = None
    queued_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    updated_at: datetime | None = None
    attempts: tuple[JobAttempt, ...] = ()  # of `jobs.get` and `jobs.wait` only
    artifacts: tuple[Artifact, ...] = ()  # of `jobs.get` and `jobs.wait` only
    pushes: tuple[Push, ...] = ()  # of `jobs.get` and `jobs.wait` only
    # For `jobs.edit`, of `jobs.get` and `jobs.edit` only.
    etag: str | None = dataclasses.field(default=None, compare=False, metadata={JSON_NAME: None})

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self.state in FINAL_STATES


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job; `id` counts from 1 without a gap."""

    id: int
    job_id: str
    at: datetime
    type: str
    data: Mapping[str, Any]
    attempt: int | None = None

    @property
    def is_final(self) -> bool:
        """Whether the job has ended with this event."""
        return self.type == "state" and self.data.get("state") in FINAL_STATES


@dataclass(frozen=True, slots=True)
class Measurement:
    """Figures measured on a split."""

    id: int  # of the event that told them
    split: str
    step: int
    epoch: float | None
    at: datetime
    metrics: Mapping[str, float | None]


class Measurements(tuple[Measurement, ...]):
    """Every measurement of a job, oldest first."""

    __slots__ = ()

    def to_pandas(self) -> "DataFrame":
        """Return a table with a row a measurement and a column a metric; it needs pandas."""
        from pandas import DataFrame

        places = ("split", "step", "epoch", "at")
        return DataFrame(
            [{**{name: getattr(one, name) for name in places}, **one.metrics} for one in self]
        )


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint of a job that is in the service's storage."""

    id: str
    job_id: str
    attempt: int
    step: int
    model: str  # how specs refer to it
    metrics: Mapping[str, float | None]
    is_best: bool
    size_bytes: int
    created_at: datetime
    artifacts: tuple[Artifact, ...] = ()  # of its model; of `jobs.checkpoint` only


def from_json(kind: type[T], values: object, *, owner: object = None, **more: object) -> T:
    """Return JSON values as a value of `kind`, or raise UnexpectedReply.

    Args:
        kind: one of this module's values, or of those that stand on them.
        values: what the service answered.
        owner: the resource by which the value makes calls of its own, if it does.
        more: fields that the answer's body does not have.
    """
    if owner is not None:
        more = {**more, OWNER: owner}
    try:
        return typing.cast("T", _decoded(kind, values, **more))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnexpectedReply(
            f"the service's answer is no {kind.__name__}: {error}.",
            hint="Use a client of the service's version.",
        ) from error


def to_json(value: object) -> Any:
    """Return a value as JSON-ready values, under the API's names."""
    if dataclasses.is_dataclass(value):
        kind: Any = type(value)
        names = _names(kind)
        return {told: to_json(getattr(value, name)) for name, told in names.items()}
    match value:
        case datetime():
            return value.isoformat()
        case Mapping():
            return {str(key): to_json(item) for key, item in value.items()}
        case list() | tuple():
            return [to_json(item) for item in value]
        case _:
            return value


def _decoded(kind: Any, value: Any, **more: object) -> Any:
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        some = [part for part in typing.get_args(kind) if part is not type(None)]
        return None if value is None else _decoded(some[0], value)
    if origin is tuple:
        return tuple(_decoded(typing.get_args(kind)[0], item) for item in value or ())
    if kind is datetime:
        return datetime.fromisoformat(value)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        kinds = {field.name: field.type for field in dataclasses.fields(kind)}
        told = {
            name: _decoded(kinds[name], value[json_name])
            for name, json_name in _names(kind).items()
            if json_name in value
        }
        return kind(**told, **more)
    return value


@cache
def _names(kind: Any) -> dict[str, str]:
    """Return the fields that the API has, with its names for them."""
    named = {
        field.name: field.metadata.get(JSON_NAME, field.name) for field in dataclasses.fields(kind)
    }
    return {name: told for name, told in named.items() if told and name != OWNER}
