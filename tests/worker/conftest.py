"""The whole road: the API in a thread, a real `luthier worker`, real training processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs.settings import PREFIX, Settings, load_settings
from jobs.store import jobs, models
from tests.api.conftest import serve
from tests.conftest import Servers, fresh_database
from tests.stored import DATASET, keep_dataset
from trainer_core.spec import parse_spec

JOB_SECONDS = 240  # importing torch takes most of it, on a slow machine


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    return True if config.getoption("markexpr") == "not slow" else None


@dataclass
class Road:
    """A running service and what a test does with it."""

    client: httpx.Client
    settings: Settings
    workers: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def start_worker(self, **changes: object) -> "subprocess.Popen[bytes]":
        """Start a worker; with a `home` of its own it is one of another machine."""
        values = {**self.settings.model_dump(), "storage_url": self.settings.storage, **changes}
        given = {
            f"{PREFIX}{name.upper()}": _text(value)
            for name, value in values.items()
            if value is not None
        }
        log = self.settings.home / "logs" / f"worker-{len(self.workers)}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            worker = subprocess.Popen(
                [sys.executable, "-m", "luthier", "worker"],
                env={**os.environ, **given},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.workers.append(worker)
        return worker

    def stop_workers(self, number: signal.Signals = signal.SIGTERM) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                if number is signal.SIGKILL:
                    os.killpg(worker.pid, number)
                else:
                    worker.send_signal(number)
                worker.wait(120)
        self.workers.clear()

    def upload(self, content: str, *, name: str) -> str:
        answer = self.client.post("/datasets", files={"file": (name, content)})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def submit(self, spec: dict[str, Any]) -> str:
        answer = self.client.post("/jobs", json=spec)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.client.get(f"/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def events(self, job_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            after = found[-1]["id"] if found else 0
            answer = self.client.get(
                f"/jobs/{job_id}/events", params={"after": after, "limit": 1000}
            )
            found += answer.json()["data"]
            if not answer.json()["has_more"]:
                return found

    def wait(
        self,
        job_id: str,
        condition: Callable[[dict[str, Any]], bool],
        *,
        seconds: float = JOB_SECONDS,
    ) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while True:
            job = self.job(job_id)
            if condition(job):
                return job
            if job["state"] in ("succeeded", "failed", "cancelled"):
                pytest.fail(f"the job ended too early: {json.dumps(job, indent=1)[:4000]}")
            if time.monotonic() > deadline:
                pytest.fail(f"not within {seconds} s: {json.dumps(job, indent=1)[:4000]}")
            time.sleep(0.1)

    def wait_for_end(self, job_id: str) -> dict[str, Any]:
        return self.wait(job_id, lambda job: job["state"] in ("succeeded", "failed", "cancelled"))

    def training_pids(self) -> set[int]:
        """The training processes that have a run of this service's home open."""
        found = set()
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with suppress(OSError):
                    command = (entry / "cmdline").read_bytes()
                    out = (entry / "fd" / "1").readlink()
                    if b"trainer_core.training" in command and self.settings.home in out.parents:
                        found.add(int(entry.name))
        return found

    def run_pid(self, job_id: str) -> int:
        """The process that trains a job: its output is the run's log."""
        runs = self.settings.home / "runs" / job_id
        for pid in self.training_pids():
            with suppress(OSError):
                if runs in Path(f"/proc/{pid}/fd/1").readlink().parents:
                    return pid
        pytest.fail(f"no process trains {job_id}")


@pytest.fixture
def submit(backends, tmp_path):
    backends.storage.put(f"datasets/{DATASET}", [b"text,label\n" + b"x,a\ny,b\n" * 10])
    with backends.database.transaction() as tx:
        keep_dataset(tx)
        models.create(tx, "tiny", project="default", path=str(tmp_path), hub=None, revision=None)
    values = {
        "task": "text-classification",
        "model": "model:tiny",
        "data": {"train": f"dataset:{DATASET}"},
    }

    def submit(**changes):
        with backends.database.transaction() as tx:
            return jobs.create(tx, parse_spec(values | changes), project="default", max_attempts=3)

    return submit


@pytest.fixture(scope="module")
def road(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    with open_road(servers, tmp_path_factory.mktemp("road")) as found:
        yield found


@pytest.fixture(scope="module")
def forked_road(
    servers: Servers, tmp_path_factory: pytest.TempPathFactory, fork_server: Path
) -> Iterator[Road]:
    """A road whose training processes begin in milliseconds."""
    folder = tmp_path_factory.mktemp("road")
    with open_road(servers, folder, fork_server=fork_server, warm_spare=False) as found:
        yield found


@contextmanager
def open_road(servers: Servers, folder: Path, **changes: object) -> Iterator[Road]:
    with fresh_database(servers) as database_url:
        settings = load_settings(
            home=folder / "home",
            database_url=database_url,
            redis_url=servers.redis_url,
            auth="none",
            model_roots=(folder / "models",),
            port=0,
            training_threads=1,
            lease_seconds=6,
            cancel_grace_seconds=4,
            sweep_seconds=1,
            retry_seconds=0.5,
            heartbeat_seconds=1,
            **{"predict": "off", **changes},
        )
        with serve(settings) as url, httpx.Client(base_url=url, timeout=30) as client:
            road = Road(client, settings)
            yield road
            road.stop_workers()


def _text(value: object) -> str:
    return ":".join(map(str, value)) if isinstance(value, tuple) else str(value)
