"""Groups B and D: many clients at once, while the answers are timed."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread

import httpx
from sqlalchemy import text

from jobs.store import jobs
from tests.drills.plan import Counted, Drill, not_run
from tests.drills.site import Site, within
from tests.drills.work import Work, spec_of
from trainer_core.spec import parse_spec

_NUM_STREAMS = 200
_MAX_CONNECTIONS = 30  # of an API: ten that stay, and twenty more
_NUM_POSTS = 100
_HEARTBEAT_SECONDS = 15  # as a service has it; the site's own is shorter
_NUM_OLD = 40  # jobs that are there before D12's walks
_WALKS = 10  # a trial
_WARM_SECONDS = 15
_LOAD_SECONDS = 60  # a trial
_REQUESTS_A_SECOND = 200
_LOAD_STREAMS = 50
_LOAD_PROCESSES = 2  # the row is of two cores


def drills(work: Work) -> list[Drill]:
    """Return the group's drills for a site that is set up."""
    trials = _Trials(work)
    return [
        Drill(
            "B14", "200 streams on a pool of 30 connections", "POST: p99 <= 500 ms", trials.b14, 5,
            quick=0, is_alone=True,
        ),
        Drill(
            "D12", "pages walked while jobs come", "none skipped or doubled", trials.d12, 100,
            unit="walks", per_trial=_WALKS,
        ),
        not_run("D13", "malformed requests", "a test of the API, not of a running site"),
        Drill(
            "D14", "200 requests a second and 50 streams", "no 5xx, p99 <= 250 ms", trials.d14, 600,
            quick=0, unit="seconds", per_trial=_LOAD_SECONDS, is_alone=True,
        ),
    ]  # fmt: skip


class _Trials:
    def __init__(self, work: Work) -> None:
        self._work = work

    def b14(self, site: Site, _: random.Random) -> float:
        site.kill_workers()
        site.only_api(heartbeat_seconds=_HEARTBEAT_SECONDS)
        spec = spec_of(self._work.dataset)
        job_id = site.submit(spec)
        with _streams(site, job_id, count=_NUM_STREAMS):
            seconds = []
            for _number in range(_NUM_POSTS):
                began = time.monotonic()
                site.client.post(f"/jobs/{site.submit(spec)}/cancel")
                seconds.append((time.monotonic() - began) / 2)  # there were two
            num_connections = _num_connections(site)
        site.client.post(f"/jobs/{job_id}/cancel")
        assert num_connections <= _MAX_CONNECTIONS + 10, num_connections  # ten are the drill's
        slow = _p99(seconds)
        within(0.5, took=slow, what="p99")
        return slow

    def d12(self, site: Site, _: random.Random) -> Counted:
        site.kill_workers()
        spec = parse_spec(spec_of(self._work.dataset))
        old = [_create(site, spec) for _ in range(_NUM_OLD)]
        stop = Event()

        def insert() -> None:
            while not stop.wait(0.005):
                _create(site, spec)

        inserting = Thread(target=insert)
        inserting.start()
        try:
            for _walk in range(_WALKS):
                found = list(_walk_pages(site))
                assert len(found) == len(set(found)), "a job came twice"
                missing = set(old) - set(found)
                assert not missing, f"{missing} were skipped"
        finally:
            stop.set()
            inserting.join()
        with site.backends.engine.begin() as connection:
            connection.execute(text("DELETE FROM jobs WHERE state = 'queued'"))
        return Counted(_WALKS)

    def d14(self, site: Site, _: random.Random) -> Counted:
        site.only_worker()
        job_id = self._work.assert_whole(site, self._work.submit(site))["id"]
        site.kill_workers()
        waiting = site.submit(spec_of(self._work.dataset))
        site.only_api(heartbeat_seconds=_HEARTBEAT_SECONDS, api_processes=_LOAD_PROCESSES)
        warm, load = _Load(), _Load()
        with _streams(site, waiting, count=_LOAD_STREAMS):
            # What just started is still importing, and gets its helpers ready.
            asyncio.run(_press(site, warm, job_id, seconds=_WARM_SECONDS))
            asyncio.run(_press(site, load, job_id, seconds=_LOAD_SECONDS))
        site.client.post(f"/jobs/{waiting}/cancel")
        statuses = warm.statuses + load.statuses
        failed = {status: n for status, n in statuses.items() if status >= 500}
        assert not failed, failed
        slow = _p99(load.seconds)
        within(0.25, took=slow, what=f"p99 of {len(load.seconds)} requests")
        return Counted(_LOAD_SECONDS, slow)


@dataclass(slots=True)
class _Load:
    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)


async def _press(site: Site, load: _Load, job_id: str, *, seconds: int) -> None:
    """Send requests at a steady rate, whether or not earlier ones have been answered.

    Over bare sockets: with a client of Python's the asking takes more than the answering.
    """
    paths = ("/jobs?limit=20", f"/jobs/{job_id}", f"/jobs/{job_id}/events?limit=50", "/models")
    port = site.settings.port
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(path: str) -> None:
        began = time.monotonic()
        reader, writer = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]))
        load.seconds.append(time.monotonic() - began)
        load.statuses[int(head.split()[1])] += 1
        idle.append((reader, writer))

    async with asyncio.TaskGroup() as group:
        begun = time.monotonic()
        for number in range(seconds * _REQUESTS_A_SECOND):
            group.create_task(ask(paths[number % len(paths)]))
            due = begun + (number + 1) / _REQUESTS_A_SECOND
            await asyncio.sleep(max(0.0, due - time.monotonic()))
    for _, writer in idle:
        writer.close()


@contextmanager
def _streams(site: Site, job_id: str, *, count: int) -> Iterator[None]:
    """Follow a job on many connections."""
    headers = {"Accept": "text/event-stream"}
    limits = httpx.Limits(max_connections=count + 1)
    url = f"http://127.0.0.1:{site.settings.port}"
    with ExitStack() as stack:
        client = stack.enter_context(httpx.Client(base_url=url, limits=limits, timeout=30))
        for _ in range(count):
            stream = client.stream("GET", f"/jobs/{job_id}/events", headers=headers)
            assert stack.enter_context(stream).status_code == 200
        yield


def _num_connections(site: Site) -> int:
    query = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'luthier'")
    with site.backends.engine.connect() as connection:
        return int(connection.execute(query).scalar_one())


def _create(site: Site, spec: object) -> str:
    with site.backends.database.transaction() as tx:
        return jobs.create(tx, spec, max_attempts=3, project="default").id


def _walk_pages(site: Site) -> Iterator[str]:
    after: dict[str, str] = {}
    while True:
        page = site.client.get("/jobs", params={"limit": 7, **after}).json()
        yield from (job["id"] for job in page["data"])
        if not page["has_more"]:
            return
        after = {"after": page["data"][-1]["id"]}


def _p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)]
