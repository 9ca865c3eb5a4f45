"""The figures of a job as a file: a table of its steps, made of its events whenever it is read."""

import csv
import io
from collections.abc import Iterable
from typing import Any

from sqlalchemy.dialects.postgresql import insert

from jobs.identifiers import sibling
from jobs.records import Job, StoredEvent
from jobs.store.events import read_metrics
from jobs.tables import files
from jobs.transaction import Transaction

PURPOSE = "fine-tune-results"
# Those that OpenAI's files have come first, so that what reads theirs reads ours.
_USUAL = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")
_PREFIXES = {"train": "train", "eval": "valid", "test": "test"}
_RENAMED = {"valid_token_accuracy": "valid_mean_token_accuracy"}


def keep(tx: Transaction, job: Job) -> None:
    """Make the file of a job's figures known; a job that has one keeps it."""
    tx.connection.execute(
        insert(files)
        .values(
            id=sibling(job.id, prefix="file-"),
            project=job.project,
            purpose=PURPOSE,
            name="step_metrics.csv",
            job_id=job.id,
            size_bytes=len(table(tx, job.id)),
        )
        .on_conflict_do_nothing()
    )


def table(tx: Transaction, job_id: str) -> bytes:
    """Return the figures of a job as CSV, one line a step at which something was measured."""
    return _csv(read_metrics(tx, job_id))


def _csv(measured: Iterable[StoredEvent]) -> bytes:
    steps: dict[int, dict[str, Any]] = {}
    for event in measured:
        step, prefix = event.data["step"], _PREFIXES[event.data["split"]]
        row = steps.setdefault(step, {"step": step})
        for name, value in event.data["metrics"].items():
            column = f"{prefix}_{name}"
            row[_RENAMED.get(column, column)] = value
    found = {name for row in steps.values() for name in row}
    text = io.StringIO()
    writer = csv.DictWriter(text, [*_USUAL, *sorted(found.difference(_USUAL))], lineterminator="\n")
    writer.writeheader()
    writer.writerows(steps[step] for step in sorted(steps))
    return text.getvalue().encode()
