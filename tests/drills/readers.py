"""Readers of a job's events, on connections that break."""

import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import httpx

import luthier
from tests.drills.site import FINAL, Site, TooSlow

_READ_SECONDS = 60
_PAUSE_SECONDS = 0.1
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # else each client reads all certificates


def read(url: str, job_id: str, *, after: int, last: int) -> list[int]:
    """Return the numbers of the events that a stream brings until it breaks off, or the last."""
    numbers = []
    for event in _stream(url, job_id, after=after):
        numbers.append(int(event["id"]))
        if numbers[-1] == last:
            break
    return numbers


def read_on(url: str, job_id: str, *, last: int) -> list[int]:
    """Return the numbers of all events up to the last, whatever the streams break off at."""
    numbers: list[int] = []
    while not numbers or numbers[-1] < last:
        numbers += read(url, job_id, after=numbers[-1] if numbers else 0, last=last)
    return numbers


def read_by_client(url: str, job_id: str, *, last: int) -> list[int]:
    """Return the numbers of all events up to the last, as our client brings them."""
    numbers = []
    with luthier.Client(url) as client, closing(client.jobs.events(job_id)) as events:
        for event in events:
            numbers.append(event.id)
            if event.id >= last:
                break
    return numbers


class Reader:
    """Follows a job from its first event to its end, in a thread of its own."""

    def __init__(self, site: Site, job_id: str) -> None:
        self._url = f"http://127.0.0.1:{site.settings.port}"
        self._job_id = job_id
        self._numbers: list[int] = []
        self._is_given_up = False
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def assert_all(self, site: Site) -> None:
        """Check, once the job has ended, that each of its events was read once and in order."""
        self._thread.join(_READ_SECONDS)
        self._is_given_up = True
        expected = [event["id"] for event in site.events(self._job_id)]
        read = list(self._numbers)
        if self._thread.is_alive() and read == expected[: len(read)]:
            raise TooSlow(f"only {len(read)} of {len(expected)} events within {_READ_SECONDS} s")
        assert read == expected, f"read {read} of {len(expected)} events"

    def _follow(self) -> None:
        while not self._is_given_up:
            after = self._numbers[-1] if self._numbers else 0
            for event in _stream(self._url, self._job_id, after=after):
                self._numbers.append(int(event["id"]))
                if event["type"] == "state" and event["data"]["state"] in FINAL:
                    return
            time.sleep(_PAUSE_SECONDS)  # it broke off


def _stream(url: str, job_id: str, *, after: int) -> Iterator[dict[str, Any]]:
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
    with (
        suppress(httpx.TransportError),
        httpx.Client(timeout=_READ_SECONDS, verify=_NO_TLS) as client,
        client.stream("GET", f"{url}/jobs/{job_id}/events", headers=headers) as answer,
    ):
        for line in answer.iter_lines():
            if line.startswith("data:"):
                event: dict[str, Any] = json.loads(line[5:])
                yield event
