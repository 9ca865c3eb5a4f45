"""Looking at a job before it is queued: what is asked of a process with torch, and its answer.

It speaks by a run directory (see `run_directory.py`) in which there are besides:

    inspection.json    in: what is known of all rows, of which `inputs.json` names a sample only,
                       and the devices that the job might run on
    findings.json      out: what was found, whole or absent
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter

from trainer_core.errors import TypedError
from trainer_core.run_directory import read_json, write_json
from trainer_core.spec.estimating import DeviceKind, Memory

REQUEST, FINDINGS = "inspection.json", "findings.json"


@dataclass(frozen=True, slots=True)
class Target:
    """A kind of device that a job might run on."""

    kind: DeviceKind
    name: str
    memory_bytes: int | None
    has_fast_bf16: bool = False
    num_threads: int = 1  # of the CPU


@dataclass(frozen=True, slots=True)
class Request:
    """What is known of all rows, and the devices in question."""

    num_rows: Mapping[str, int]  # usable ones a split
    classes: tuple[str, ...]
    class_counts: Mapping[str, Mapping[str, int]]
    targets: tuple[Target, ...]

    def write(self, folder: Path) -> None:
        """Write it into a run directory."""
        counts = {split: dict(part) for split, part in self.class_counts.items()}
        write_json(folder / REQUEST, asdict(replace(self, class_counts=counts)))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return what `write` wrote."""
        return TypeAdapter(cls).validate_python(read_json(folder / REQUEST))


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens of a row that are all learnt, or all not, as text."""

    text: str
    is_learnt: bool


@dataclass(frozen=True, slots=True)
class Rendered:
    """A row as the model reads it."""

    segments: tuple[Segment, ...]
    target: str | None = None  # what is learnt, where that is no text: a class or a number


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the tokenizer makes of a split's rows."""

    num_rows: int  # looked at
    percentiles: Mapping[str, int]  # of the tokens of a row before any is cut: p50, p90, …, max
    share_truncated: float
    share_without_targets: float  # rows with nothing to learn, which are left out


@dataclass(frozen=True, slots=True)
class Seconds:
    """How long training takes with its evaluations; loading, tokenizing and saving come besides."""

    low: float
    expected: float
    high: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the job takes on one kind of device."""

    target: Target
    error: TypedError | None = None  # why it can't run there; then nothing else is said
    spec: Mapping[str, Any] | None = None  # without an auto
    choices: Sequence[Mapping[str, Any]] = ()
    num_steps: int | None = None
    memory: Memory | None = None
    disk_bytes: int | None = None
    seconds: Seconds | None = None  # None where the device's speed was not measured


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found of a job's tokens and model; with an error only what came before it."""

    error: TypedError | None = None
    warnings: tuple[Mapping[str, str], ...] = ()
    num_weights: int | None = None
    num_trained: int | None = None
    tokens: Mapping[str, Tokens] = field(default_factory=dict)
    examples: tuple[Rendered, ...] = ()
    estimates: tuple[Estimate, ...] = ()

    def write(self, folder: Path) -> None:
        """Write them into a run directory."""
        write_json(folder / FINDINGS, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Return what `write` wrote, or None if nothing was."""
        path = folder / FINDINGS
        return TypeAdapter(cls).validate_python(read_json(path)) if path.exists() else None
