"""What happens in a run, as frozen values named in the past tense, and the protocol of watchers.

The training process emits events to one `Reporter`. In a run directory they are lines of
`events.jsonl`; the worker numbers them in the database and sends them on.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, Protocol, Self

from trainer_core.redaction import REDACTOR


class EventType(StrEnum):
    """The closed list of types that watchers see."""

    STATE = "state"
    PHASE = "phase"
    PROGRESS = "progress"
    METRICS = "metrics"
    CHECKPOINT = "checkpoint"
    LOG = "log"
    WARNING = "warning"
    ARTIFACT = "artifact"
    ERROR = "error"


class Phase(StrEnum):
    """What a running job is busy with."""

    PREPARING = "preparing"
    LOADING = "loading"
    TOKENIZING = "tokenizing"
    TRAINING = "training"
    EVALUATING = "evaluating"
    SAVING = "saving"
    PUBLISHING = "publishing"


@dataclass(frozen=True, slots=True)
class PhaseEntered:
    """A run began to be busy with something else."""

    type: ClassVar[EventType] = EventType.PHASE
    phase: Phase
    fraction: float = 0.0  # share of the phase that is done, in [0, 1]


@dataclass(frozen=True, slots=True)
class Progressed:
    """Optimizer steps were taken. At most about two a second are reported."""

    type: ClassVar[EventType] = EventType.PROGRESS
    step: int
    max_steps: int
    epoch: float
    num_tokens: int  # real, unpadded tokens seen by the optimizer so far
    loss: float | None  # of the latest step, nats where the task's loss is a log-likelihood
    eta_seconds: float | None  # to the end of training


@dataclass(frozen=True, slots=True)
class MetricsMeasured:
    """Figures were measured on a split."""

    type: ClassVar[EventType] = EventType.METRICS
    split: Literal["train", "eval", "test"]
    step: int
    epoch: float
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class CheckpointSaved:
    """A checkpoint is whole on disk."""

    type: ClassVar[EventType] = EventType.CHECKPOINT
    step: int
    path: str  # below the run directory
    is_best: bool
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Logged:
    """Something worth telling a person; `fields` are for programs."""

    type: ClassVar[EventType] = EventType.LOG
    message: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Warned:
    """Something is probably not as the user meant it; the run goes on."""

    type: ClassVar[EventType] = EventType.WARNING
    code: str
    message: str
    hint: str = ""


Event = PhaseEntered | Progressed | MetricsMeasured | CheckpointSaved | Logged | Warned


class Reporter(Protocol):
    """Anything that watches a run."""

    def report(self, event: Event) -> None:
        """Take note of an event."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of `events.jsonl`."""

    type: EventType
    at: datetime
    data: dict[str, Any]


class JsonlReporter:
    """Writes each event as one line of a file, flushed, so that a reader can follow."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def report(self, event: Event) -> None:
        self._file.write(encode_line(event, at=datetime.now(UTC)) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()


class ListReporter:
    """Keeps the events in memory: the stand-in for tests and notebooks."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def report(self, event: Event) -> None:
        self.events.append(event)


class Reporters:
    """Passes each event on to several reporters."""

    def __init__(self, reporters: Sequence[Reporter]) -> None:
        self._reporters = tuple(reporters)

    def report(self, event: Event) -> None:
        for reporter in self._reporters:
            reporter.report(event)


def encode_line(event: Event, *, at: datetime) -> str:
    """Return an event as one line of JSON, without the line's end."""
    line = {"type": event.type, "at": at.isoformat(), "data": REDACTOR.value(asdict(event))}
    return json.dumps(line, ensure_ascii=False, allow_nan=False)


def decode_line(text: str) -> Line:
    """Return what `encode_line` wrote."""
    values = json.loads(text)
    return Line(EventType(values["type"]), datetime.fromisoformat(values["at"]), values["data"])
