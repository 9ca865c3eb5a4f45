"""The client on a real service, and what jobs go through without a worker."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

import luthier
from jobs.backends import Backends
from jobs.settings import Settings
from jobs.states import State
from jobs.store import attempts
from tests.api.conftest import CSV, claim, serve, spec_of
from tests.client.driven import async_client
from trainer_core.errors import LuthierError

# Makes a client, to be used in a `with` statement.
Connect = Callable[..., AbstractContextManager[Any]]

# A job as the service answers it.
JOB = {
    "id": "job_1",
    "task": "causal-lm",
    "model": "model:tiny",
    "state": "queued",
    "spec": {},
    "created_at": "2026-01-02T03:04:05Z",
}


@pytest.fixture
def service_settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"port": 0, "heartbeat_seconds": 0.5})


@pytest.fixture
def url(service_settings: Settings) -> Iterator[str]:
    with serve(service_settings) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[luthier.Client]:
    with luthier.Client(url) as client:
        yield client


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Connect:
    """Make clients of one side, then of the other."""
    return luthier.Client if request.param == "sync" else async_client


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "train.csv"
    path.write_text(CSV)
    return path


def submit(client: luthier.Client, rows: Path, **changes: Any) -> luthier.Job:
    """Upload rows and submit a job on them."""
    return client.jobs.create(spec_of(client.datasets.upload(rows).id, **changes))


def fail(backends: Backends, error: LuthierError) -> None:
    """Take the next job and end it by an error, as a worker does."""
    job = claim(backends)
    with backends.database.transaction() as tx:
        attempts.end(
            tx,
            job.id,
            State.FAILED,
            attempt=job.attempt,
            reason="failed",
            values={"error": error.to_typed().to_dict()},
        )
