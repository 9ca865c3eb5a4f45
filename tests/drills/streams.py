"""Group D, streams: readers that are cut, late, slow, and events that come while one connects."""

import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import psutil
import redis

from jobs.feed import stream_of
from jobs.store import events as store
from jobs.store.events import NewEvent
from tests.cutting_proxy import CuttingProxy
from tests.drills.plan import Counted, Drill
from tests.drills.readers import read, read_by_client, read_on
from tests.drills.site import Site
from tests.drills.work import Work, spec_of
from trainer_core.events import EventType

_NUM_EVENTS = 200
_LAST = _NUM_EVENTS + 1  # the first is of its submission
_NUM_READERS = 10  # of D7, a trial
_NUM_SLOW = 100  # readers of D9
_NUM_LONG = 4000  # events of a kilobyte that they do not read
_SLOW_SECONDS = 15
_MB = 1_000_000


def drills(work: Work) -> list[Drill]:
    """Return the group's drills for a site that is set up."""
    trials = _Trials(work)
    return [
        Drill(
            "D6", "event stream cut again and again", "ids rise, no gap, no double", trials.d6,
            1000, unit="reconnects", per_trial=15,
        ),
        Drill(
            "D7", "events while a reader connects", "none lost or doubled", trials.d7, 1000,
            unit="connects", per_trial=_NUM_READERS,
        ),
        Drill("D8", "Last-Event-ID older than the Valkey stream", "from PostgreSQL", trials.d8, 20),
        Drill(
            "D9", "100 readers of a byte a second", "API grows <= 20 MB, resumable", trials.d9, 3,
            is_alone=True,
        ),
    ]  # fmt: skip


class _Trials:
    def __init__(self, work: Work) -> None:
        self._work = work

    def d6(self, site: Site, chance: random.Random) -> Counted:
        cut_after_bytes = chance.randint(1500, 4000)
        with (
            _waiting(site, self._work) as job_id,
            CuttingProxy(_url(site), cut_after_bytes=cut_after_bytes) as proxy,
        ):
            follow = chance.choice([read_on, read_by_client])
            speaker = _speak(site, job_id)
            numbers = follow(proxy.url, job_id, last=_LAST)
            speaker.join()
            assert proxy.num_cuts >= 10, f"only {proxy.num_cuts} cuts"
            _assert_all(numbers)
            return Counted(proxy.num_cuts)

    def d7(self, site: Site, chance: random.Random) -> Counted:
        delays = [chance.uniform(0, 0.8) for _ in range(_NUM_READERS)]

        def connect(delay: float) -> list[int]:
            time.sleep(delay)
            return read(_url(site), job_id, after=0, last=_LAST)

        with _waiting(site, self._work) as job_id:
            speaker = _speak(site, job_id)
            with ThreadPoolExecutor(_NUM_READERS) as pool:
                found = list(pool.map(connect, delays))
            speaker.join()
        for numbers in found:
            _assert_all(numbers)
        return Counted(_NUM_READERS)

    def d8(self, site: Site, chance: random.Random) -> None:
        with _waiting(site, self._work) as job_id:
            _speak(site, job_id).join()
            with redis.Redis.from_url(site.valkey.url, socket_timeout=5) as client:
                client.xtrim(stream_of(job_id), maxlen=chance.randrange(100), approximate=False)
            after = chance.randrange(1, 90)
            numbers = read(_url(site), job_id, after=after, last=_LAST)
        _assert_all(numbers, after=after)

    def d9(self, site: Site, _: random.Random) -> None:
        with _waiting(site, self._work) as job_id:
            for reader in [_connect(site, job_id) for _ in range(_NUM_SLOW)]:
                reader.close()  # what a hundred readers take of threads and connections
            time.sleep(2)
            before = _resident_bytes(site)
            readers = [_connect(site, job_id) for _ in range(_NUM_SLOW)]
            for _block in range(_NUM_LONG // 100):
                _say(site, job_id, count=100, text="x" * 1000)
            most = before
            ends = time.monotonic() + _SLOW_SECONDS
            while time.monotonic() < ends:
                for reader in readers:
                    with suppress(OSError):
                        reader.recv(1)
                most = max(most, _resident_bytes(site))
                time.sleep(1)
            for reader in readers:
                reader.close()
            numbers = read(_url(site), job_id, after=1, last=_NUM_LONG + 1)
        assert numbers == list(range(2, _NUM_LONG + 2)), "a reader who comes back misses some"
        assert most - before <= 20 * _MB, f"the API grew by {(most - before) / _MB:.0f} MB"


@contextmanager
def _waiting(site: Site, work: Work) -> Iterator[str]:
    """Give a job that no worker takes."""
    for part in site.workers:
        part.stop()
    site.workers.clear()
    job_id = site.submit(spec_of(work.dataset))
    yield job_id
    site.client.post(f"/jobs/{job_id}/cancel")


def _speak(site: Site, job_id: str) -> threading.Thread:
    """Append events to a job meanwhile, each in a transaction of its own."""

    def speak() -> None:
        for number in range(_NUM_EVENTS):
            _say(site, job_id, count=1, text=f"number {number}")

    thread = threading.Thread(target=speak)
    thread.start()
    return thread


def _say(site: Site, job_id: str, *, count: int, text: str) -> None:
    said = NewEvent(EventType.LOG, {"message": text, "fields": {}})
    with site.backends.database.transaction() as tx:
        store.append(tx, job_id, [said] * count)


def _assert_all(numbers: list[int], *, after: int = 0) -> None:
    assert numbers == list(range(after + 1, _LAST + 1)), numbers


def _connect(site: Site, job_id: str) -> socket.socket:
    """Return a connection that follows a job and takes in little by itself."""
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.settimeout(0.01)
    with suppress(TimeoutError):
        reader.connect(("127.0.0.1", site.settings.port))
    request = (
        f"GET /jobs/{job_id}/events HTTP/1.1\r\nHost: 127.0.0.1:{site.settings.port}\r\n"
        "Accept: text/event-stream\r\n\r\n"
    )
    reader.sendall(request.encode())
    return reader


def _resident_bytes(site: Site) -> int:
    return sum(int(psutil.Process(part.pid).memory_info().rss) for part in site.apis)


def _url(site: Site) -> str:
    return f"http://127.0.0.1:{site.settings.port}"
