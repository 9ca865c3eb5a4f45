"""Rows in the database that tests need and do not look at."""

from typing import Any

from sqlalchemy import text

from jobs.records import Job
from jobs.store import datasets, jobs
from jobs.transaction import Transaction
from trainer_core.spec import parse_spec

DATASET = "ds_0123456789ab"


def keep_dataset(tx: Transaction, dataset_id: str = DATASET, **changes: Any) -> None:
    """Keep a data set; its rows are stored nowhere."""
    values = {
        "id": dataset_id,
        "project": "default",
        "name": "train.csv",
        "has_header": True,
        "key": f"datasets/{dataset_id}",
        "size_bytes": 1,
        "sha256": "0" * 64,
        "description": {},
    }
    datasets.create(tx, values | changes)


def new_job(tx: Transaction, *, project: str = "default") -> Job:
    """Keep a queued job, on a data set that is made where there is none."""
    if not tx.connection.execute(text("SELECT EXISTS (SELECT FROM datasets)")).scalar_one():
        keep_dataset(tx)
    values = {
        "task": "text-classification",
        "model": "model:tiny",
        "data": {"train": f"dataset:{DATASET}"},
    }
    return jobs.create(tx, parse_spec(values), project=project, max_attempts=2)
