"""Group B, messages: a Valkey that forgets, freezes, delivers again, or loses what it was given."""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import redis

from jobs.queue import QUEUE
from tests.drills.plan import Drill
from tests.drills.readers import Reader
from tests.drills.site import FINAL, Site, TooSlow, until, within
from tests.drills.work import NUM_STEPS, Work, spec_of

_UNACKNOWLEDGED = "unacked"  # where Celery keeps messages that were taken
_FROZEN_SECONDS = 60  # of B3, but for its first trial
_FIRST_FROZEN_SECONDS = 6
_PAUSE_SECONDS = 3  # of the training, so that some of it is left when Valkey freezes
_ANSWER_SECONDS = 2
_LONG_SECONDS = 8  # of a step, for which B4's job goes on
_LONG_AGO_SECONDS = 2 * 86_400  # twice the visibility timeout
_REDISPATCH_SECONDS = 60
_MAX_TRIES = 10  # to kill a worker in the instant in which it has a message


def drills(work: Work) -> list[Drill]:
    """Return the group's drills for a site that is set up."""
    trials = _Trials(work)
    return [
        Drill("B1", "Valkey flushed; killed: empty, stale", "all run, ids rise", trials.b1, 60),
        Drill("B3", "Valkey frozen for 6 s, then for 60 s", "goes on, nothing lost", trials.b3, 20),
        Drill("B4", "a message ten times; redelivered by age", "one attempt", trials.b4, 200),
        Drill("B5", "the message vanishes; its consumer dies", "runs all the same", trials.b5, 100),
    ]  # fmt: skip


class _Trials:
    def __init__(self, work: Work) -> None:
        self._work = work
        self._frozen_seconds = _FIRST_FROZEN_SECONDS

    def b1(self, site: Site, chance: random.Random) -> None:
        lose = chance.choice([_flush, _come_back_empty, _come_back_stale])
        found = [self._work.submit(site) for _ in range(2)]
        readers = [Reader(site, job_id) for job_id in found]
        time.sleep(chance.uniform(0, self._work.seconds))
        kept = _copy(site)
        time.sleep(chance.uniform(0, self._work.seconds))
        lose(site, kept)
        for job_id in found:
            self._work.assert_whole(site, job_id)
        for reader in readers:
            reader.assert_all(site)

    def b3(self, site: Site, chance: random.Random) -> float:
        seconds, self._frozen_seconds = self._frozen_seconds, _FROZEN_SECONDS
        pause = f"sleep={_PAUSE_SECONDS}:{chance.randrange(2, NUM_STEPS - 5)}"
        site.only_worker(failpoints=f"step.ended:{pause}")
        job_id = site.submit(spec_of(self._work.dataset))
        reader = Reader(site, job_id)
        site.wait(job_id, lambda job: (job["progress"] or {}).get("step", 0) >= 1)
        time.sleep(chance.uniform(0, 1))
        with _frozen(site):
            began = datetime.now(UTC)
            slowest, second = self._ask(site, job_id, seconds=seconds)
        within(_ANSWER_SECONDS, took=slowest, what="an answer")
        for one in (job_id, second):
            job = self._work.assert_whole(site, one)
            assert len(job["attempts"]) == 1, job["attempts"]
            _assert_measured(site, one)
        reader.assert_all(site)
        at = [datetime.fromisoformat(event["at"]) for event in _measured(site, job_id)]
        assert max(at) > began, "no step fell into the time that it was frozen"
        return slowest

    def _ask(self, site: Site, job_id: str, *, seconds: float) -> tuple[float, str]:
        """Ask for a job and submit another; return the time of the slowest answer, and that job."""
        slowest, second = 0.0, ""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            begun = time.monotonic()
            if not second:
                second = site.submit(spec_of(self._work.dataset))
            else:
                answer = site.client.get(f"/jobs/{job_id}")
                assert answer.status_code in (200, 503), answer.text
            slowest = max(slowest, time.monotonic() - begun)
            time.sleep(0.1)
        return slowest, second

    def b4(self, site: Site, chance: random.Random) -> None:
        again = chance.choice([self._rung_again, self._redelivered])
        job_id = again(site)
        with _redis(site) as client:
            until(lambda: not client.llen(QUEUE), seconds=20, what="messages wait")
        job = self._work.assert_whole(site, job_id)
        assert len(job["attempts"]) == 1, job["attempts"]

    def _rung_again(self, site: Site) -> str:
        job_id = self._work.submit(site)
        for _ in range(10):  # as a broker does that delivers again
            site.backends.database.ring([job_id])
        return job_id

    def _redelivered(self, site: Site) -> str:
        """Have the transport deliver the message of a running job again, for it is too old.

        A worker acknowledges early, so its own is never there to be restored: it is put back.
        """
        site.kill_workers()
        job_id = site.submit(spec_of(self._work.dataset))
        with _redis(site) as client:
            until(lambda: client.llen(QUEUE), seconds=20, what="it was not rung")
            message = json.loads(client.lindex(QUEUE, 0))
            site.start_worker(failpoints=f"step.ended:sleep={_LONG_SECONDS}:{NUM_STEPS // 2}")
            until(lambda: site.training_pids(job_id), seconds=30, what="a training process")
            tag = _put_unacknowledged(client, message)
            site.start_worker()  # Celery looks for such messages at its start
            until(
                lambda: not client.hexists(_UNACKNOWLEDGED, tag), seconds=60, what="not redelivered"
            )
            if site.job(job_id)["state"] in FINAL:
                raise TooSlow("the job had ended before its message was redelivered")
        return job_id

    def b5(self, site: Site, chance: random.Random) -> float:
        if not site.workers:
            site.start_worker()
        lose = chance.choice([self._deleted, self._popped_by_the_dead])
        with _redis(site) as client:
            job_id = lose(site, client)
        lost = time.monotonic()
        if not site.workers:
            site.start_worker()
        is_taken = ("running", *FINAL)
        site.wait(job_id, lambda job: job["state"] in is_taken, seconds=_REDISPATCH_SECONDS)
        seconds = time.monotonic() - lost
        self._work.assert_whole(site, job_id)
        return seconds

    def _deleted(self, site: Site, client: redis.Redis) -> str:
        until(lambda: _num_popping(client), seconds=30, what="the worker consumes")
        for part in site.workers:
            part.send_to_group(signal.SIGSTOP)
        until(lambda: not _num_popping(client), seconds=30, what="its last question has ended")
        job_id = site.submit(spec_of(self._work.dataset))
        until(lambda: client.delete(QUEUE), seconds=20, what="it was not rung")
        for part in site.workers:
            part.send_to_group(signal.SIGCONT)
        return job_id

    def _popped_by_the_dead(self, site: Site, client: redis.Redis) -> str:
        """Kill a worker that has taken the message and kept it nowhere."""
        for _ in range(_MAX_TRIES):
            (worker,) = site.workers
            until(lambda: _num_popping(client), seconds=30, what="the worker consumes")
            worker.send_to_group(signal.SIGSTOP)
            if _num_popping(client):
                num_kept, num_pushed = client.hlen(_UNACKNOWLEDGED), _num_pushed(client)
                job_id = site.submit(spec_of(self._work.dataset))
                until(lambda n=num_pushed: _num_pushed(client) > n, seconds=20, what="not rung")
                if not _num_popping(client) and not client.llen(QUEUE):
                    assert client.hlen(_UNACKNOWLEDGED) == num_kept, "it is kept after all"
                    site.kill_workers()
                    return job_id
                worker.send_to_group(signal.SIGCONT)
                self._work.assert_whole(site, job_id)  # its last question had ended
            worker.send_to_group(signal.SIGCONT)
        raise TooSlow(f"no message was in flight in {_MAX_TRIES} tries")


def _flush(site: Site, _: Path) -> None:
    with _redis(site) as client:
        client.flushall()


def _come_back_empty(site: Site, _: Path) -> None:
    _restart(site, kept=None)


def _come_back_stale(site: Site, kept: Path) -> None:
    _restart(site, kept=kept)


def _restart(site: Site, *, kept: Path | None) -> None:
    """Kill the server and start it on what was kept of it."""
    os.kill(site.valkey.pid, signal.SIGKILL)
    site.valkey.stop()
    shutil.rmtree(_files(site))
    if kept is not None:
        shutil.copytree(kept, _files(site))
    site.valkey.start()


def _copy(site: Site) -> Path:
    """Keep what the server has on its disk by now."""
    kept = site.settings.home.parent / "kept"
    shutil.rmtree(kept, ignore_errors=True)
    return shutil.copytree(_files(site), kept)


def _files(site: Site) -> Path:
    return site.settings.home / "valkey" / "appendonlydir"


@contextmanager
def _frozen(site: Site) -> Iterator[None]:
    os.kill(site.valkey.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(site.valkey.pid, signal.SIGCONT)


def _assert_measured(site: Site, job_id: str) -> None:
    """Check that what each step has measured is there, once."""
    steps = [event["data"]["step"] for event in _measured(site, job_id)]
    assert steps == list(range(1, NUM_STEPS + 1)), steps
    progress = [e["data"]["step"] for e in site.events(job_id) if e["type"] == "progress"]
    assert progress == sorted(set(progress)), progress
    assert progress[-1] == NUM_STEPS, progress


def _measured(site: Site, job_id: str) -> list[dict[str, Any]]:
    return [event for event in site.events(job_id) if event["type"] == "metrics"]


def _put_unacknowledged(client: redis.Redis, message: dict[str, Any]) -> str:
    """Keep a message as Celery does one that was taken long ago; return its tag."""
    tag = str(message["properties"]["delivery_tag"])
    route = message["properties"]["delivery_info"]
    held = [message, route["exchange"], route["routing_key"]]
    client.hset(_UNACKNOWLEDGED, tag, json.dumps(held))
    client.zadd(f"{_UNACKNOWLEDGED}_index", {tag: time.time() - _LONG_AGO_SECONDS})
    return tag


def _num_popping(client: redis.Redis) -> int:
    """Return how many workers wait for a message."""
    return sum("b" in one["flags"] and one["cmd"] == "brpop" for one in client.client_list())


def _num_pushed(client: redis.Redis) -> int:
    """Return how many messages were ever sent."""
    said = client.info("commandstats").get("cmdstat_lpush", {"calls": 0})
    return int(said["calls"])


def _redis(site: Site) -> redis.Redis:
    return redis.Redis.from_url(site.valkey.url, socket_timeout=5)
