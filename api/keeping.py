"""Keeping a received file: as a data set, whose rows are read first, or as mere bytes."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from jobs.backends import Backends
from jobs.identifiers import new_id
from jobs.records import Dataset
from jobs.store import datasets, quotas
from jobs.store.events import storable
from jobs.submission import check_said
from jobs.transaction import Transaction
from trainer_core.rows import apart

T = TypeVar("T")


def check_room(service: Backends, *, project: str) -> None:
    """Raise QuotaExceeded if a project may store nothing more, before a file is received."""
    with service.database.transaction() as tx:
        quotas.check_storage(tx, project, num_bytes=0)


def check_name(service: Backends, name: str, *, project: str) -> None:
    """Raise InvalidSpec if the name of a file holds what is or looks like a secret."""
    with service.database.transaction() as tx:
        check_said(tx, {"file": name}, project=project, settings=service.settings)


def keep_dataset(
    service: Backends,
    path: Path,
    *,
    project: str,
    name: str,
    has_header: bool,
    and_then: Callable[[Transaction, Dataset], T],
) -> T:
    """Describe a file and store it as a data set; nothing of it stays if that fails.

    Args:
        service: where to.
        path: the file.
        project: whose it is.
        name: as its owner calls it.
        has_header: whether the first record of a table names the columns.
        and_then: what else to do in the same transaction; what it returns is returned.
    """
    check_name(service, name, project=project)
    description = apart.describe(path, name=name, has_header=has_header)
    dataset_id = new_id("ds")
    key = f"datasets/{dataset_id}"
    stored = service.storage.put(key, path)
    values = {
        "id": dataset_id,
        "project": project,
        "name": name,
        "has_header": has_header,
        "key": key,
        "size_bytes": stored.size_bytes,
        "sha256": stored.sha256,
        "description": storable(description.to_dict()),
    }
    return committed(service, key, lambda tx: and_then(tx, datasets.create(tx, values)))


def committed(service: Backends, key: str, write: Callable[[Transaction], T]) -> T:
    """Return what `write` returns once it is committed; else the stored file is removed again."""
    try:
        with service.database.transaction() as tx:
            return write(tx)
    except Exception:
        service.storage.delete(key)
        raise
