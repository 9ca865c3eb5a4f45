"""A whole service to do harm to: servers, API, workers, each a process that can be killed."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from sqlalchemy import text

from jobs.backends import Backends, connect
from jobs.database import migrate
from jobs.settings import Settings, load_settings
from luthier.embedded import EmbeddedPostgres, EmbeddedValkey
from luthier.embedded.ports import free_port
from tests.cutting_proxy import CuttingProxy
from tests.drills.parts import Part, outputs, preload, start_part

FINAL = ("succeeded", "failed", "cancelled")
PATIENT_LEASE_SECONDS = 30
"""A service's own, for drills of outages that are shorter; the site's is far shorter."""
FOLDERS = frozenset(
    {"home", "models", "working", "temporary", "kept", "alone", "strace.txt", "clock.so"}
)
"""All that is in a site's folder, of the service and of drills."""
_READY_SECONDS = 120


class TooSlow(AssertionError):
    """A limit of time was passed: the fault of the service, or of a machine that is shared."""


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
    started: list[Part] = field(default_factory=list)  # all that there ever were
    compared: set[str] = field(default_factory=set)  # jobs whose models were read through

    @property
    def working(self) -> Path:
        """The working directory of the service's processes, in which none has anything to do."""
        return self.settings.home.parent / "working"

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

    def only_worker(self, **changes: object) -> Part:
        """Kill the workers that there are and start one."""
        self.kill_workers()
        return self.start_worker(**changes)

    def only_api(self, **changes: object) -> Part:
        """Stop the APIs that there are and start one."""
        for part in self.apis:
            part.stop()
        self.apis.clear()
        return self.start_api(**changes)

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
        log = self.settings.home / "logs" / f"{command}-{len(self.started)}.log"
        temporary = self.settings.home.parent / "temporary"
        for folder in (self.working, temporary):
            folder.mkdir(exist_ok=True)
        values = {**self.settings.model_dump(), "TMPDIR": str(temporary), **changes}
        part = start_part(command, values, log=log, working=self.working)
        self.started.append(part)
        return part

    def mend(self) -> None:
        """Bring everything up again after a drill that failed, with no job left."""
        for server in (self.postgres, self.valkey):
            with suppress(ProcessLookupError):
                os.kill(server.pid, signal.SIGCONT)
            if server.poll() is not None:
                server.stop()
                server.start()
        for part in self.started:  # one that is frozen may hold locks
            part.kill_group()
        self.workers.clear()
        self.apis.clear()
        for pid, output in outputs():
            if self.settings.home / "runs" in output.parents:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        with self.backends.engine.begin() as connection:
            connection.execute(text("UPDATE jobs SET finished_at = now()"))
        self.forget_ended()
        self.start_api()

    def forget_ended(self) -> None:
        """Forget the jobs that have ended: they were looked at, and looking at all takes long."""
        with self.backends.engine.begin() as connection:
            query = text("DELETE FROM jobs WHERE finished_at IS NOT NULL RETURNING id")
            gone = list(connection.execute(query).scalars())  # and all that belongs to them
        for job_id in gone:
            for folder in ("storage/jobs", "runs"):
                shutil.rmtree(self.settings.home / folder / job_id, ignore_errors=True)

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
        """Return the job once it is as wanted; TooSlow if that takes too long."""
        deadline = time.monotonic() + seconds
        while True:
            job = self.job(job_id)
            if condition(job):
                return job
            told = {name: job[name] for name in ("id", "state", "phase", "attempts", "error")}
            assert job["state"] not in FINAL, f"it ended too early: {told}"
            if time.monotonic() >= deadline:
                raise TooSlow(f"not within {seconds} s: {told}")
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

    def message(self, job_id: str, kind: str) -> dict[str, Any]:
        """Return the data of a job's first event of a kind."""
        return next(dict(e["data"]) for e in self.events(job_id) if e["type"] == kind)

    def weights(self, job: Mapping[str, Any]) -> str:
        """Return the SHA-256 of a finished job's weights."""
        (found,) = [f["sha256"] for f in job["artifacts"] if f["path"] == "model.safetensors"]
        return str(found)

    def training_pids(self, job_id: str) -> list[int]:
        """The living processes whose output is the log of a run of the job."""
        runs = self.settings.home / "runs" / job_id
        return [pid for pid, output in outputs() if runs in output.parents]


def until(condition: Callable[[], object], *, seconds: float, what: str = "") -> float:
    """Wait for a condition and return how long it took; TooSlow if too long."""
    started = time.monotonic()
    while not condition():
        within(seconds, took=time.monotonic() - started, what=what)
        time.sleep(0.02)
    return time.monotonic() - started


def within(seconds: float, *, took: float, what: str) -> None:
    """Raise TooSlow if something took longer than it may."""
    if took > seconds:
        raise TooSlow(f"not within {seconds:g} s: {what} ({took:.1f} s)")


def through(proxy: CuttingProxy, url: str) -> str:
    """Return a server's URL by way of a proxy."""
    return url.replace(f":{urlsplit(url).port}/", f":{proxy.port}/")


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
    preload()
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
            "webhook_networks": "127.0.0.0/8",
            "webhook_seconds": 0.1,
        }
        settings = load_settings(**{**values, **changes})
        url = f"http://127.0.0.1:{settings.port}"
        client = stack.enter_context(httpx.Client(base_url=url, timeout=30))
        backends = connect(settings)
        stack.callback(backends.engine.dispose)
        site = Site(settings, postgres, valkey, client, backends)
        stack.callback(site.stop)
        yield site
