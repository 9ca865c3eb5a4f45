"""The unmodified client of OpenAI, sync and async, strict and lenient, against a real service."""

import asyncio
import inspect
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI

from jobs.backends import Backends, connect
from jobs.identifiers import sibling
from jobs.records import Job
from jobs.settings import load_settings
from jobs.store import attempts, checkpoints, events, jobs, models
from jobs.store.events import NewEvent
from tests.api.conftest import NEVER, serve, succeed
from tests.conftest import Servers, fresh_database
from trainer_core.events import EventType

CHATS = [
    {
        "messages": [
            {"role": "user", "content": f"What is {n} and {n}?"},
            {"role": "assistant", "content": str(2 * n)},
        ]
    }
    for n in range(12)
]
PAIRS = [
    {
        "input": {
            "messages": [{"role": "user", "content": f"Greet guest {n}"}],
            "tools": [],
            "parallel_tool_calls": True,
        },
        "preferred_output": [{"role": "assistant", "content": f"Welcome, guest {n}."}],
        "non_preferred_output": [{"role": "assistant", "content": "What?"}],
    }
    for n in range(12)
]
MODEL = "tiny"
CHECKPOINT = ("config.json", "model.safetensors", "manifest.json")


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    return True if config.getoption("markexpr") == "not slow" else None


@dataclass(frozen=True)
class Facade:
    """A running service, whose jobs tests move by themselves."""

    url: str
    backends: Backends
    home: Path

    def claim(self, job_id: str) -> Job:
        """Take a job as a worker does; jobs before it in the queue are ended."""
        wanted = sibling(job_id, prefix="job_")
        while True:
            with self.backends.database.transaction() as tx:
                job = attempts.claim(tx, worker="worker-1", lease_seconds=600)
                assert job is not None, f"{job_id} is not queued"
                if job.id == wanted:
                    return job
                jobs.cancel(tx, job.id, project=job.project)

    def say(self, job: Job, kind: EventType, **data: Any) -> None:
        """Append an event to a claimed job."""
        with self.backends.database.transaction() as tx:
            events.append(tx, job.id, [NewEvent(kind, data)], attempt=job.attempt)

    def train(self, job_id: str) -> Job:
        """Bring a job to its end as a worker does, with figures, a checkpoint and a model."""
        job = self.claim(job_id)
        figures = {"split": "train", "step": 5, "epoch": 1.0, "metrics": {"loss": 0.5}}
        self.say(job, EventType.METRICS, **figures)
        measured = {"loss": 0.25, "token_accuracy": 0.75}
        figures = {"split": "eval", "step": 10, "epoch": 2.0, "metrics": measured}
        self.say(job, EventType.METRICS, **figures)
        for step in (5, 10):
            path = f"checkpoints/checkpoint-{step}"
            saved = {"step": step, "path": path, "is_best": step == 10, "metrics": measured}
            self.say(job, EventType.CHECKPOINT, **saved)
            self._store_checkpoint(job, step, metrics=measured)
        progress = {
            "step": 10, "max_steps": 10, "epoch": 2.0, "num_tokens": 1234, "loss": 0.5,
            "eta_seconds": 0.0,
        }  # fmt: skip
        with self.backends.database.transaction() as tx:
            attempts.note(tx, job.id, attempt=job.attempt, values={"progress": progress})
        succeed(self.backends, job, {"config.json": b"{}", "model.safetensors": b"0"})
        return job

    def _store_checkpoint(self, job: Job, step: int, *, metrics: dict[str, float]) -> None:
        files = [{"path": name, "size_bytes": 2, "sha256": "0" * 64} for name in CHECKPOINT]
        with self.backends.database.transaction() as tx:
            checkpoints.begin(
                tx,
                job.id,
                attempt=job.attempt,
                step=step,
                key=f"checkpoints/{job.id}/{step}",
                files=files,
                metrics=metrics,
                is_best=step == 10,
            )
            checkpoints.complete(tx, job.id, attempt=job.attempt, step=step, keep=2)


class Blocking:
    """The async client, used as if it were the other: each call is run to its end."""

    def __init__(self, value: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._value, self._loop = value, loop

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._value, name)
        if isinstance(found, str | bytes | int):
            return found
        return Blocking(found, self._loop)

    def __call__(self, *args: Any, **given: Any) -> Any:
        answer = self._value(*args, **given)
        if hasattr(answer, "__aiter__"):
            return _Pages(answer, self._loop)
        if not inspect.isawaitable(answer):
            return answer
        found = self._loop.run_until_complete(answer)
        return list(_Pages(found, self._loop)) if hasattr(found, "__anext__") else found


class _Pages:
    def __init__(self, paginator: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._paginator, self._loop = paginator, loop

    def __iter__(self) -> Iterator[Any]:
        async def collect() -> list[Any]:
            return [one async for one in self._paginator]

        return iter(self._loop.run_until_complete(collect()))

    def __getattr__(self, name: str) -> Any:
        async def first() -> Any:
            return await self._paginator

        return getattr(self._loop.run_until_complete(first()), name)


@pytest.fixture(scope="session")
def facade(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Facade]:
    folder = tmp_path_factory.mktemp("facade")
    with fresh_database(servers) as database_url:
        settings = load_settings(
            home=folder / "home",
            database_url=database_url,
            auth="none",
            redis_url=servers.redis_url,
            port=0,
            sweep_seconds=NEVER,
            max_upload_bytes=1 << 20,
            webhook_networks=("127.0.0.0/8",),
            webhook_seconds=0.05,
        )
        backends = connect(settings)
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text("{}")
        with backends.database.transaction() as tx:
            models.create(
                tx, MODEL, project="default", path=str(folder / "model"), hub=None, revision=None
            )
        with serve(settings) as url:
            yield Facade(url, backends, settings.home)
        backends.engine.dispose()


@pytest.fixture(
    params=[(kind, strict) for kind in ("sync", "async") for strict in (True, False)],
    ids=["sync-strict", "sync-lenient", "async-strict", "async-lenient"],
)
def client(facade: Facade, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Each of the four clients in turn."""
    kind, strict = request.param
    options: dict[str, Any] = {
        "base_url": f"{facade.url}/v1",
        "api_key": "sk-of-no-meaning",
        "max_retries": 0,
        "_strict_response_validation": strict,
    }
    if kind == "sync":
        with OpenAI(**options) as plain:
            yield plain
        return
    loop = asyncio.new_event_loop()
    asynchronous = AsyncOpenAI(**options)
    yield Blocking(asynchronous, loop)
    loop.run_until_complete(asynchronous.close())
    loop.close()


@pytest.fixture
def one_client(facade: Facade) -> Iterator[OpenAI]:
    """One client, strict, for what does not differ between the four."""
    with OpenAI(
        base_url=f"{facade.url}/v1",
        api_key="sk-of-no-meaning",
        max_retries=0,
        _strict_response_validation=True,
    ) as plain:
        yield plain


def jsonl(rows: Sequence[Any]) -> bytes:
    """Return rows as the lines of a file."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def upload(client: Any, rows: Sequence[Any] = CHATS, *, name: str = "train.jsonl") -> str:
    """Upload rows to train on and return the file's id."""
    file = client.files.create(file=(name, jsonl(rows)), purpose="fine-tune")
    return str(file.id)


def start(client: Any, **given: Any) -> Any:
    """Submit a job on a fresh file."""
    return client.fine_tuning.jobs.create(
        **{"model": MODEL, "training_file": upload(client), **given}
    )
