"""A whole service to do harm to: servers, API, workers, each a process that can be killed.

Training processes and the service's own are forked from processes that have imported everything:
a drill of a hundred kills would else be an hour of imports.
"""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from jobs.backends import Backends, connect
from jobs.database import migrate
from jobs.settings import PREFIX, Settings, load_settings
from luthier.embedded import EmbeddedPostgres, EmbeddedValkey
from luthier.embedded.ports import free_port

FINAL = ("succeeded", "failed", "cancelled")
_READY_SECONDS = 120
_FORKS = multiprocessing.get_context("forkserver")
_PRELOADED = ["api.app", "api.serving", "luthier.cli.main", "luthier.cli.service", "worker.main"]


@dataclass(slots=True)
class Part:
    """A process of the service, the leader of its own session."""

    process: Any
    log: Path

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    def is_alive(self) -> bool:
        return bool(self.process.is_alive())

    def kill_group(self) -> None:
        """SIGKILL it and its pool, but not the training processes, which lead groups of theirs."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.join(30)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def send_to_group(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def stop(self, *, seconds: float = 60) -> None:
        """End it in order, and by force where that takes too long."""
        if self.is_alive():
            self.send(signal.SIGTERM)
            self.process.join(seconds)
        self.kill_group()


@dataclass(slots=True)
class Site:
    """The service, and what drills do with it."""

    settings: Settings
    postgres: EmbeddedPostgres
    valkey: EmbeddedValkey
    client: httpx.Client
    backends: Backends
    apis: list[Part] = field(default_factory=list)
    workers: list[Part] = field(default_factory=list)
    num_started: int = 0

    # What runs.

    def start_api(self, **changes: object) -> Part:
        """Start the API; requests are answered when this returns, unless it was made to fail."""
        part = self._start("api", changes)
        self.apis.append(part)
        until(self.is_answering, seconds=_READY_SECONDS)
        return part

    def is_answering(self) -> bool:
        with suppress(httpx.TransportError):
            return self.client.get("/livez").status_code == 200
        return False

    def start_worker(self, **changes: object) -> Part:
        part = self._start("worker", changes)
        self.workers.append(part)
        return part

    def kill_workers(self) -> None:
        """SIGKILL every worker with its pool."""
        for part in self.workers:
            part.send_to_group(signal.SIGCONT)
            part.kill_group()
        self.workers.clear()

    def stop(self) -> None:
        for part in (*self.workers, *self.apis):
            part.send_to_group(signal.SIGCONT)
            part.stop()
        self.workers.clear()
        self.apis.clear()

    def _start(self, command: str, changes: Mapping[str, object]) -> Part:
        """Start `luthier api` or `luthier worker`.

        Args:
            command: which.
            changes: settings by name; `failpoints` is one.
        """
        self.num_started += 1
        log = self.settings.home / "logs" / f"{command}-{self.num_started}.log"
        values = {**self.settings.model_dump(), **changes}
        environment = {
            f"{PREFIX}{name.upper()}": _text(value)
            for name, value in values.items()
            if value is not None
        }
        process = _FORKS.Process(
            target=_run_part, args=(command, environment, str(log)), name=command
        )
        process.start()
        return Part(process, log)

    # Jobs, as their owners see them.

    def upload(self, content: str, *, name: str) -> str:
        answer = self.client.post("/datasets", files={"file": (name, content)})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def submit(self, spec: Mapping[str, Any], **headers: str) -> str:
        answer = self.client.post("/jobs", json=spec, headers=headers)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.client.get(f"/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def wait(
        self, job_id: str, condition: Callable[[dict[str, Any]], bool], *, seconds: float = 60
    ) -> dict[str, Any]:
        """Return the job once it is as wanted; AssertionError if that takes too long."""
        deadline = time.monotonic() + seconds
        while True:
            job = self.job(job_id)
            if condition(job):
                return job
            told = {name: job[name] for name in ("id", "state", "phase", "attempts", "error")}
            assert job["state"] not in FINAL, f"it ended too early: {told}"
            assert time.monotonic() < deadline, f"not within {seconds} s: {told}"
            time.sleep(0.02)

    def wait_for_end(self, job_id: str, *, seconds: float = 60) -> dict[str, Any]:
        return self.wait(job_id, lambda job: job["state"] in FINAL, seconds=seconds)

    def events(self, job_id: str) -> list[dict[str, Any]]:
        """Return all events of a job."""
        found: list[dict[str, Any]] = []
        while True:
            after = found[-1]["id"] if found else 0
            answer = self.client.get(
                f"/jobs/{job_id}/events", params={"after": after, "limit": 1000}
            ).json()
            found += answer["data"]
            if not answer["has_more"]:
                return found

    def weights(self, job: Mapping[str, Any]) -> str:
        """Return the SHA-256 of a finished job's weights."""
        (found,) = [f["sha256"] for f in job["artifacts"] if f["path"] == "model.safetensors"]
        return str(found)

    def training_pids(self, job_id: str) -> list[int]:
        """The living processes whose output is the log of a run of the job."""
        runs = self.settings.home / "runs" / job_id
        return [pid for pid, output in _outputs() if runs in output.parents]


def until(condition: Callable[[], object], *, seconds: float, what: str = "") -> float:
    """Wait for a condition and return how long it took; AssertionError if too long."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - started


@contextmanager
def open_site(folder: Path, *, fork_server: Path, **changes: object) -> Iterator[Site]:
    """Give a site with its servers; nothing else runs yet.

    Args:
        folder: empty; everything is kept in it.
        fork_server: the socket of the server of training processes.
        changes: settings that differ from a drill's usual ones.
    """
    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    _FORKS.set_forkserver_preload(_PRELOADED)
    with ExitStack() as stack:
        postgres, valkey = EmbeddedPostgres(home), EmbeddedValkey(home)
        stack.callback(postgres.delete_data)
        stack.callback(valkey.stop)
        postgres.start()
        valkey.start()
        migrate(postgres.url)
        values: dict[str, object] = {
            "home": home,
            "database_url": postgres.url,
            "redis_url": valkey.url,
            "auth": "none",
            "model_roots": (folder / "models",),
            "port": free_port(),
            "training_threads": 1,
            "fork_server": fork_server,
            "warm_spare": False,
            "lease_seconds": 3,
            "cancel_grace_seconds": 3,
            "drain_grace_seconds": 20,
            "sweep_seconds": 0.5,
            "retry_seconds": 0.2,
            "heartbeat_seconds": 1,
        }
        settings = load_settings(**{**values, **changes})
        url = f"http://127.0.0.1:{settings.port}"
        client = stack.enter_context(httpx.Client(base_url=url, timeout=30))
        backends = connect(settings)
        stack.callback(backends.engine.dispose)
        site = Site(settings, postgres, valkey, client, backends)
        stack.callback(site.stop)
        yield site


def save_model(kind: str, folder: Path) -> None:
    """Save a tiny model of `tests/training/tiny.py`; this process imports no torch."""
    code = (
        "import sys; from pathlib import Path; from tests.training import tiny; "
        "getattr(tiny, f'save_{sys.argv[1]}')(Path(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", code, kind, str(folder)], check=True)


def _run_part(command: str, environment: Mapping[str, str], log: str) -> None:
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]
    os.environ.update(environment)
    from luthier.cli.main import cli

    cli([command], prog_name="luthier")


def _outputs() -> Iterator[tuple[int, Path]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                yield int(entry.name), (entry / "fd" / "1").readlink()


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ":".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value, default=str).strip('"')
