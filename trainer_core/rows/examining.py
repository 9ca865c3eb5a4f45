"""What a person would want to know of the rows of a job before it is queued: all of it at once.

Nothing but the rows is looked at: no tokenizer, no model. Each file is read once, and of a row a
few bytes are kept; of a sample of them, drawn evenly from each file, the rows themselves.
"""

import random
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer_core.errors import DataError
from trainer_core.rows.checking import SPLITS, Survey, look_through
from trainer_core.rows.files import InputFile
from trainer_core.rows.fitting import Usable
from trainer_core.spec import JobSpec, Row

MAX_TWINS = 5  # shown
_NUM_SAMPLED = 1_000  # rows of each file

_Marks = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Twin:
    """A row whose inputs an earlier row has had."""

    file: str
    line: int
    earlier_file: str
    earlier_line: int


@dataclass(frozen=True, slots=True)
class Repetition:
    """How often rows come again. Two are of the same inputs if all but their labels is equal."""

    num_duplicates: Mapping[str, int]  # a split: rows that an earlier one of it equals
    num_contradictions: Mapping[str, int]  # a split: inputs of an earlier row, with another label
    num_overlapping: Mapping[str, int]  # rows of eval and test with inputs of a training row
    twins: tuple[Twin, ...]  # the first ones of all of these


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found of the rows, and everything that is wrong with them."""

    found: Survey | None  # None where a file can't be read
    problems: tuple[DataError, ...]
    repetition: Repetition | None
    sample: Mapping[str, tuple[Row, ...]]  # by split


def examine(spec: JobSpec, files: Mapping[str, InputFile]) -> Examination:
    """Return what is to be said of the rows of a job; nothing is raised for what is wrong.

    Args:
        spec: what the job says of its rows.
        files: the file of each split that has one of its own; `train` always.
    """
    notes = {split: _Notes(_label_roles(spec)) for split in files}
    found, problems = look_through(
        spec, files, watch=lambda split, usable: notes[split].add(usable)
    )
    if found is None:
        return Examination(None, tuple(problems), None, {})
    rows = _rows_by_split(found, notes)
    return Examination(
        found=found,
        problems=tuple(problems),
        repetition=_repetition(rows, files),
        sample={split: part.sample() for split, part in rows.items()},
    )


def _label_roles(spec: JobSpec) -> frozenset[str]:
    """Return the roles that are to be told from the others, where they are classes."""
    return frozenset(
        r for r, column in spec.columns.mapped().items() if column == spec.label_column
    )


@dataclass(slots=True)
class _Notes:
    """What is kept of the rows of one file, in its order."""

    label_roles: frozenset[str]
    lines: "array[int]" = field(default_factory=lambda: array("q"))
    inputs: "array[int]" = field(default_factory=lambda: array("Q"))  # hashes
    wholes: "array[int]" = field(default_factory=lambda: array("Q"))
    kept: dict[int, tuple[int, Row]] = field(default_factory=dict)  # place -> number and row
    chance: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311

    def add(self, usable: Usable) -> None:
        number = len(self.lines)
        self.lines.append(usable.line)
        whole = _hash(usable.row.model_dump_json())
        self.wholes.append(whole)
        without = usable.row.model_dump_json(exclude=set(self.label_roles))
        self.inputs.append(_hash(without) if self.label_roles else whole)
        # Algorithm R: each row is as likely as any other to be in the sample.
        place = number if number < _NUM_SAMPLED else self.chance.randrange(number + 1)
        if place < _NUM_SAMPLED:
            self.kept[place] = (number, usable.row)


@dataclass(frozen=True, slots=True)
class _Part:
    """The rows of one split: some of one file."""

    notes: _Notes
    source: str  # the split whose file it is
    numbers: npt.NDArray[np.int64]  # of its rows in the file, rising

    @property
    def inputs(self) -> _Marks:
        return np.frombuffer(self.notes.inputs, np.uint64)[self.numbers]

    @property
    def wholes(self) -> _Marks:
        return np.frombuffer(self.notes.wholes, np.uint64)[self.numbers]

    def line(self, row: int) -> int:
        return self.notes.lines[int(self.numbers[row])]

    def sample(self) -> tuple[Row, ...]:
        own = set(self.numbers.tolist())
        return tuple(
            row
            for number, row in sorted(self.notes.kept.values(), key=lambda one: one[0])
            if number in own
        )


def _rows_by_split(found: Survey, notes: Mapping[str, _Notes]) -> dict[str, _Part]:
    assigned = np.frombuffer(found.held_out, np.uint8)
    parts = {}
    for split, mark in SPLITS.items():
        if split in notes and split != "train":
            source, numbers = split, np.arange(len(notes[split].lines))
        else:
            source, numbers = "train", np.flatnonzero(assigned == mark)
        if len(numbers):
            parts[split] = _Part(notes[source], source, numbers[: found.num_rows[split]])
    return parts


def _repetition(parts: Mapping[str, _Part], files: Mapping[str, InputFile]) -> Repetition:
    duplicates, contradictions, overlapping = {}, {}, {}
    twins: list[Twin] = []
    train = parts.get("train")

    def show(part: _Part, rows: npt.NDArray[np.int64], earlier: _Part) -> None:
        for row in rows[: MAX_TWINS - len(twins)].tolist():
            first = int(np.argmax(earlier.inputs == part.inputs[row]))
            file, earlier_file = files[part.source].name, files[earlier.source].name
            twins.append(Twin(file, part.line(row), earlier_file, earlier.line(first)))

    for split, part in parts.items():
        if split != "train" and train is not None:
            rows = np.flatnonzero(np.isin(part.inputs, train.inputs))
            overlapping[split] = len(rows)
            show(part, rows, train)
        again = _later_ones(part.wholes)
        others = np.setdiff1d(_later_ones(part.inputs), again)
        duplicates[split], contradictions[split] = len(again), len(others)
        show(part, np.union1d(again, others), part)
    return Repetition(duplicates, contradictions, overlapping, tuple(twins))


def _later_ones(marks: _Marks) -> npt.NDArray[np.int64]:
    """Return the places of marks that were there before."""
    _, first = np.unique(marks, return_index=True)
    is_later = np.ones(len(marks), dtype=np.bool_)
    is_later[first] = False
    return np.flatnonzero(is_later)


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def sample_values(spec: JobSpec, row: Row) -> dict[str, Any]:
    """Return a row under the names of its columns, JSON-ready: read again, it is the same row."""
    values = row.model_dump(mode="json", exclude_none=True)
    return {
        column: values[role] for role, column in spec.columns.mapped().items() if role in values
    }
