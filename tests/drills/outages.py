"""Group B, outages: a Valkey that refuses, a PostgreSQL that loses processes, disk or network."""

import os
import random
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import redis

from luthier.embedded.home import Home, ServerRecord
from tests.cutting_proxy import CuttingProxy
from tests.drills.disk_space import fill, mounted, obstacle_to_mounting
from tests.drills.plan import Counted, Drill
from tests.drills.site import (
    FINAL,
    PATIENT_LEASE_SECONDS,
    Site,
    open_site,
    through,
    until,
    within,
)
from tests.drills.work import Work, spec_of

_KILLS = 4  # of B8, a trial
_READY_SECONDS = 30
_HELD_SECONDS = 15
_DATABASE_DISK = "256m"


def drills(work: Work) -> list[Drill]:
    """Return the group's drills for a site that is set up."""
    trials = _Trials(work)
    return [
        Drill("B6", "Valkey full, or read-only", "accepted, not ready, then runs", trials.b6, 20),
        Drill(
            "B8", "a PostgreSQL backend killed in its work", "nothing broken", trials.b8,
            200, unit="kills", per_trial=_KILLS,
        ),
        Drill(
            "B10", "PostgreSQL's disk full", "503 or 507, then recovers", trials.b10, 10,
            obstacle=obstacle_to_mounting(),
        ),
        Drill(
            "B13", "worker cut off from PostgreSQL alone", "stops within its lease", trials.b13, 30
        ),
    ]  # fmt: skip


class _Trials:
    def __init__(self, work: Work) -> None:
        self._work = work

    def b6(self, site: Site, chance: random.Random) -> float:
        site.only_worker()
        refusing = chance.choice([_full, _read_only])
        with redis.Redis.from_url(site.valkey.url, socket_timeout=5) as client:
            with refusing(client):
                job_id = site.submit(spec_of(self._work.dataset))
                answer = site.client.get("/readyz")
                assert answer.status_code == 503, answer.text
                assert answer.json()["checks"]["redis"] is False, answer.text
                time.sleep(chance.uniform(0, 2))
            freed = time.monotonic()
            until(lambda: site.client.get("/readyz").status_code == 200, seconds=5, what="ready")

        def has_begun(job: dict[str, Any]) -> bool:
            _replace_ended(site)  # a worker that began meanwhile could not, and ends
            return job["state"] in ("running", *FINAL)

        site.wait(job_id, has_begun, seconds=30)
        seconds = time.monotonic() - freed
        self._work.assert_whole(site, job_id)
        return seconds

    def b8(self, site: Site, chance: random.Random) -> Counted:
        site.only_worker(lease_seconds=PATIENT_LEASE_SECONDS)
        job_id = self._work.running(site)
        for _ in range(_KILLS):
            time.sleep(chance.uniform(0, 0.6))
            with suppress(ProcessLookupError):
                os.kill(_busy_backend(site, chance), signal.SIGKILL)
            until(lambda: _is_ready(site), seconds=_READY_SECONDS, what="the database is back")
        job = self._work.assert_whole(site, job_id)
        assert len(job["attempts"]) == 1, "another attempt took the job over"
        site.kill_workers()
        return Counted(_KILLS)

    def b10(self, site: Site, _: random.Random) -> float:
        with tempfile.TemporaryDirectory(prefix="luthier-drill-b10-", dir="/tmp") as name:
            folder = Path(name)
            folder.chmod(0o755)  # PostgreSQL has a user of its own and must come through
            disk = folder / "disk"
            disk.mkdir()
            with (
                mounted(disk, size=_DATABASE_DISK),
                _database_on(disk, home=folder / "home"),
                open_site(folder, fork_server=Path(str(site.settings.fork_server))) as small,
            ):
                return self._fill(small, disk)

    def _fill(self, small: Site, disk: Path) -> float:
        small.start_api()
        rows = self._work.rows
        assert small.client.post("/datasets", files={"file": ("a.csv", rows)}).status_code == 201
        ballast = fill(disk)
        filled = time.monotonic()
        refused: set[int] = set()
        while not refused:
            within(60, took=time.monotonic() - filled, what="the disk never was full")
            with suppress(httpx.TransportError):
                answer = small.client.post("/datasets", files={"file": ("a.csv", rows)})
                if answer.status_code != 201:
                    refused.add(answer.status_code)
        assert refused <= {503, 507}, refused
        ballast.unlink()
        freed = time.monotonic()
        if small.postgres.poll() is not None:  # as a service manager does
            small.postgres.stop()
            small.postgres.start()
        until(lambda: _is_ready(small), seconds=_READY_SECONDS, what="it recovers")
        assert small.client.post("/datasets", files={"file": ("a.csv", rows)}).status_code == 201
        return time.monotonic() - freed

    def b13(self, site: Site, chance: random.Random) -> float:
        site.kill_workers()
        url = str(site.settings.database_url)
        with CuttingProxy(url) as proxy:
            site.start_worker(database_url=through(proxy, url))
            job_id = site.submit(spec_of(self._work.dataset, **_SLOW))
            until(lambda: site.training_pids(job_id), seconds=30, what="a training process")
            time.sleep(chance.uniform(0, 1))
            proxy.hold()
            held = time.monotonic()
            lease = site.settings.lease_seconds
            until(lambda: not site.training_pids(job_id), seconds=lease, what="it trains on")
            seconds = time.monotonic() - held
            assert site.job(job_id)["state"] == "running", "the lease had run out by then"
            # What it held when it was cut off, it may hold until PostgreSQL ends its transaction.
            until(lambda: _is_cancelled(site, job_id), seconds=_HELD_SECONDS, what="it is held")
            site.wait_for_end(job_id, seconds=lease + _HELD_SECONDS)
            proxy.release()
            site.kill_workers()
        return seconds


@contextmanager
def _database_on(disk: Path, *, home: Path) -> Iterator[None]:
    """Let the database of a home lie on a disk of its own."""
    (disk / "postgres").mkdir(mode=0o711)
    place = Home(home)
    place.create()
    password = secrets.token_urlsafe(24)
    place.write_record("postgres", ServerRecord(password=password, folder=str(disk / "postgres")))
    yield


_SLOW = {"training": {"max_steps": 5000}}  # it has to outlive a lease


@contextmanager
def _full(client: redis.Redis) -> Iterator[None]:
    """Let the server have no memory left."""
    client.config_set("maxmemory", "1")
    try:
        yield
    finally:
        client.config_set("maxmemory", "0")


@contextmanager
def _read_only(client: redis.Redis) -> Iterator[None]:
    """Let the server be a replica of one that is not there."""
    client.replicaof("127.0.0.1", "1")
    try:
        yield
    finally:
        client.replicaof("NO", "ONE")


def _replace_ended(site: Site) -> None:
    """Start a worker where one has ended, as a service manager does."""
    if not any(part.is_alive() for part in site.workers):
        site.only_worker()


def _busy_backend(site: Site, chance: random.Random) -> int:
    """Return a process of the database that serves somebody, at work if one is."""
    deadline = time.monotonic() + 0.3
    while True:
        found = _backends(site)
        busy = [pid for pid, title in found.items() if not title.endswith(" idle")]
        if busy or (found and time.monotonic() > deadline):
            return chance.choice(busy or list(found))


def _backends(site: Site) -> dict[int, str]:
    """Return the title of every process of the database that serves a connection."""
    command = ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(site.postgres.pid)]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    found = {}
    for line in lines:
        pid, _, title = line.strip().partition(" ")
        if "127.0.0.1(" in title:
            found[int(pid)] = title.rstrip()
    return found


def _is_cancelled(site: Site, job_id: str) -> bool:
    """Ask for it; False if that is to be asked again."""
    answer = site.client.post(f"/jobs/{job_id}/cancel")
    assert answer.status_code in (200, 202, 503), answer.text
    return answer.status_code != 503


def _is_ready(site: Site) -> bool:
    return site.client.get("/readyz").status_code == 200
