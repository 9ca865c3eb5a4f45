"""A real uvicorn server in a thread, on the session's real PostgreSQL and Valkey."""

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from api.app import create_app
from api.serving import configuration
from jobs.backends import Backends, connect
from jobs.records import Job
from jobs.settings import Settings, load_settings
from jobs.states import State
from jobs.store import artifacts, attempts, checkpoints, events
from jobs.store.attempts import Steps
from jobs.store.events import NewEvent
from tests.api.statements import Marking
from tests.conftest import _TEMPLATE, Servers, _database, _execute
from trainer_core.events import EventType

CSV = "text,label\n" + "".join(f"message {n},{'ab'[n % 2]}\n" for n in range(40))
NEVER = 3600


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody asks the Hub, unless a test brings one."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@contextlib.contextmanager
def serve(settings: Settings, *, marks_requests: bool = False) -> Iterator[str]:
    """Run the service for a while and give its URL."""
    app = create_app(settings)
    if marks_requests:
        app.add_middleware(Marking)
    server = uvicorn.Server(configuration(app, settings))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            assert time.monotonic() < deadline, "the server did not start in time"
            time.sleep(0.01)
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive(), "the server did not stop"


@dataclass(frozen=True)
class Shared:
    """A service for tests that leave nothing behind that others would see."""

    url: str
    client: httpx.Client
    backends: Backends
    home: Path


@pytest.fixture(scope="session")
def shared(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    name = "test_shared_api"
    _execute(servers.database_url, f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE} STRATEGY wal_log")
    home = tmp_path_factory.mktemp("shared") / "home"
    settings = load_settings(
        home=home,
        database_url=_database(servers.database_url, name),
        redis_url=servers.redis_url,
        auth="none",
        port=0,
        sweep_seconds=NEVER,
        webhook_seconds=NEVER,
        search_seconds=NEVER,
    )
    backends = connect(settings)
    with serve(settings) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield Shared(url, client, backends, home)
    backends.engine.dispose()


@pytest.fixture
def service_settings(settings: Settings) -> Settings:
    """Settings whose background tasks look once, at the start, when there is nothing to do."""
    quiet = {"sweep_seconds": NEVER, "webhook_seconds": NEVER, "search_seconds": NEVER}
    return settings.model_copy(update={"port": 0, "heartbeat_seconds": 0.5, **quiet})


@pytest.fixture
def url(service_settings: Settings) -> Iterator[str]:
    with serve(service_settings) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


def upload(client: httpx.Client, content: str | bytes = CSV, *, name: str = "train.csv") -> str:
    """Upload a file and return the data set's id."""
    response = client.post("/datasets", files={"file": (name, content)})
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


def spec_of(dataset_id: str, **changes: Any) -> dict[str, Any]:
    """Return a job spec on a data set."""
    return {
        "task": "text-classification",
        "model": "hub:org/encoder",
        "data": {"train": f"dataset:{dataset_id}"},
        **changes,
    }


def submit(client: httpx.Client, **changes: Any) -> str:
    """Submit a job on a fresh data set and return its id."""
    response = client.post("/jobs", json=spec_of(upload(client), **changes))
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


def claim(backends: Backends, *, lease_seconds: float = 60) -> Job:
    """Take the next job as a worker does."""
    with backends.database.transaction() as tx:
        job = attempts.claim(tx, worker="worker-1", lease_seconds=lease_seconds)
    assert job is not None
    return job


def say(backends: Backends, job_id: str, *messages: str) -> None:
    """Append log events to a job."""
    new = [NewEvent(EventType.LOG, {"message": message}) for message in messages]
    with backends.database.transaction() as tx:
        events.append(tx, job_id, new)


def succeed(backends: Backends, job: Job, files: Mapping[str, bytes]) -> None:
    """Store a model for a claimed job and end it, as a worker does."""
    rows = []
    for path, content in files.items():
        key = f"models/{job.id}/{hashlib.sha256(path.encode()).hexdigest()}"
        stored = backends.storage.put(key, [content])
        rows.append(
            {"path": path, "key": key, "size_bytes": stored.size_bytes, "sha256": stored.sha256}
        )
    with backends.database.transaction() as tx:
        artifacts.add(tx, job.id, rows)
        worked = Steps(1, 10)
        attempts.count_batch(tx, job.id, attempt=job.attempt, number=1, steps=worked)
        attempts.end(
            tx,
            job.id,
            State.SUCCEEDED,
            attempt=job.attempt,
            reason="finished",
            values={"best": {"step": 10, "metrics": {"accuracy": 0.9}}},
        )


def save(backends: Backends, job: Job, step: int, files: Mapping[str, bytes]) -> None:
    """Store a checkpoint of a claimed job, as a worker does."""
    key = f"checkpoints/{job.id}/{step}"
    rows = []
    for path, content in files.items():
        stored = backends.storage.put(f"{key}/{path}", [content])
        rows.append({"path": path, "size_bytes": stored.size_bytes, "sha256": stored.sha256})
    with backends.database.transaction() as tx:
        checkpoints.begin(
            tx,
            job.id,
            attempt=job.attempt,
            step=step,
            key=key,
            files=rows,
            metrics={"loss": 1.0},
            is_best=True,
        )
        checkpoints.complete(tx, job.id, attempt=job.attempt, step=step, keep=5)
