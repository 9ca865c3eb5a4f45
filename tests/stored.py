"""Rows in the database that tests need and do not look at."""

from typing import Any

from jobs.store import datasets
from jobs.transaction import Transaction

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
