"""What an examination found, as one process tells it to another: JSON, and the sample in files."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from trainer_core.errors import LuthierError, TypedError, restored
from trainer_core.rows.examining import Examination, Repetition, Twin, sample_values
from trainer_core.spec import JobSpec, parse_spec


@dataclass(frozen=True, slots=True)
class Rows:
    """What the rows of a job hold; see `checking.Survey`."""

    spec: JobSpec  # with the columns decided
    num_rows: Mapping[str, int]
    num_skipped: int
    classes: tuple[str, ...]
    class_counts: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found of the rows, and everything that is wrong with them."""

    found: Rows | None  # None where a file can't be read
    problems: tuple[LuthierError, ...]
    repetition: Repetition | None = None
    sample: Mapping[str, Path] = field(default_factory=dict)  # a file for each split with rows

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return what `told` gave."""
        found, repetition = values["found"], values["repetition"]
        problems = [restored(TypedError.from_dict(one)) for one in values["problems"]]
        if found is not None:
            decided = {"spec": parse_spec(found["spec"]), "classes": tuple(found["classes"])}
            found = Rows(**{**found, **decided})
        if repetition is not None:
            twins = tuple(Twin(**twin) for twin in repetition["twins"])
            repetition = Repetition(**{**repetition, "twins": twins})
        sample = {split: Path(path) for split, path in values["sample"].items()}
        return cls(found, tuple(problems), repetition, sample)


def told(examination: Examination, *, folder: Path) -> dict[str, Any]:
    """Return an examination as JSON values; its sample is written to files in a folder."""
    found = examination.found
    rows: dict[str, Any] | None = None
    sample: dict[str, str] = {}
    if found is not None:
        rows = {
            "spec": found.spec.model_dump(mode="json"),
            "num_rows": dict(found.num_rows),
            "num_skipped": found.num_skipped,
            "classes": found.classes,
            "class_counts": {split: dict(count) for split, count in found.class_counts.items()},
        }
        for split, part in examination.sample.items():
            if part:
                path = folder / f"{split}.jsonl"
                with path.open("w", encoding="utf-8") as file:
                    for row in part:
                        file.write(json.dumps(sample_values(found.spec, row)) + "\n")
                sample[split] = str(path)
    return {
        "found": rows,
        "problems": [problem.to_typed().to_dict() for problem in examination.problems],
        "repetition": asdict(examination.repetition) if examination.repetition else None,
        "sample": sample,
    }
