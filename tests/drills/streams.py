"""Group D, streams: readers that are cut, and events that come while one connects."""

import json
import random
import threading
from contextlib import suppress

import httpx

from jobs.store import events as store
from jobs.store.events import NewEvent
from tests.cutting_proxy import CuttingProxy
from tests.drills.plan import Drill
from tests.drills.site import Site, until
from tests.drills.work import Work, spec_of
from trainer_core.events import EventType

_NUM_EVENTS = 200
_READ_SECONDS = 60


def drills(work: Work) -> list[Drill]:
    """Return the group's drills for a site that is set up."""
    trials = _Trials(work)
    return [
        Drill(
            "D6", "event stream cut again and again", "ids rise, no gap, no double", trials.d6, 50
        ),
        Drill("D7", "events while a reader connects", "none lost or doubled", trials.d7, 1000, 5),
    ]


class _Trials:
    def __init__(self, work: Work) -> None:
        self._work = work

    def d6(self, site: Site, chance: random.Random) -> None:
        job_id = _waiting(site, self._work)
        cut_after_bytes = chance.randint(1500, 4000)
        url = f"http://127.0.0.1:{site.settings.port}"
        with CuttingProxy(url, cut_after_bytes=cut_after_bytes) as proxy:
            speaker = _speak(site, job_id)
            numbers: list[int] = []
            while len(numbers) <= _NUM_EVENTS:
                numbers += _read(proxy.url, job_id, after=numbers[-1] if numbers else 0)
            speaker.join()
            assert proxy.num_cuts >= 10, f"only {proxy.num_cuts} cuts"
        assert numbers == list(range(1, _NUM_EVENTS + 2)), numbers
        site.client.post(f"/jobs/{job_id}/cancel")

    def d7(self, site: Site, _: random.Random) -> None:
        job_id = _waiting(site, self._work)
        speaker = _speak(site, job_id)
        url = f"http://127.0.0.1:{site.settings.port}"
        numbers = _read(url, job_id, after=0)
        speaker.join()
        assert numbers == list(range(1, _NUM_EVENTS + 2)), numbers
        site.client.post(f"/jobs/{job_id}/cancel")


def _waiting(site: Site, work: Work) -> str:
    """Return a job that no worker takes."""
    for part in site.workers:
        part.stop()
    site.workers.clear()
    job_id = site.submit(spec_of(work.dataset))
    until(lambda: site.job(job_id)["state"] == "queued", seconds=5)
    return job_id


def _speak(site: Site, job_id: str) -> threading.Thread:
    """Append events to a job meanwhile, each in a transaction of its own."""

    def speak() -> None:
        for number in range(_NUM_EVENTS):
            with site.backends.database.transaction() as tx:
                said = NewEvent(EventType.LOG, {"message": f"number {number}", "fields": {}})
                store.append(tx, job_id, [said])

    thread = threading.Thread(target=speak)
    thread.start()
    return thread


def _read(url: str, job_id: str, *, after: int) -> list[int]:
    """Return the numbers of the events that a stream brings until it breaks off, or the last."""
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
    numbers = []
    with (
        suppress(httpx.TransportError),
        httpx.Client(timeout=_READ_SECONDS) as client,
        client.stream("GET", f"{url}/jobs/{job_id}/events", headers=headers) as answer,
    ):
        for line in answer.iter_lines():
            if line.startswith("data:"):
                numbers.append(int(json.loads(line[5:])["id"]))
                if numbers[-1] == _NUM_EVENTS + 1:
                    break
    return numbers
