"""Groups K and B: the servers that the service stands on die, come back empty, or lose messages."""

import os
import random
import signal
import time

import redis

from jobs.queue import QUEUE
from tests.cutting_proxy import CuttingProxy
from tests.drills.plan import Counted, Drill
from tests.drills.site import FINAL, PATIENT_LEASE_SECONDS, Site, through, until
from tests.drills.work import Work, spec_of

_JOBS_AT_ONCE = 6
_CONSUMING_SECONDS = 30


def drills(work: Work) -> list[Drill]:
    """Return the group's drills for a site that is set up."""
    trials = _Trials(work)
    return [
        Drill(
            "K14", "API, workers, Valkey, PostgreSQL all killed", "every job ends", trials.k14, 300,
            unit="jobs", per_trial=_JOBS_AT_ONCE,
        ),
        Drill("B1", "Valkey emptied while jobs wait and run", "all run, ids rise", trials.b1, 60),
        Drill("B2", "connections to Valkey reset ten times", "consuming <= 30 s", trials.b2, 100),
        Drill("B3", "Valkey frozen for 6 s", "training goes on, API answers", trials.b3, 20),
        Drill("B4", "the same message ten times over", "one attempt", trials.b4, 200),
        Drill("B5", "the message vanishes", "runs all the same", trials.b5, 100),
        Drill("B7", "PostgreSQL killed and started again", "no takeover", trials.b7, 30),
    ]  # fmt: skip


class _Trials:
    def __init__(self, work: Work) -> None:
        self._work = work

    def k14(self, site: Site, chance: random.Random) -> Counted:
        found = [self._work.submit(site) for _ in range(_JOBS_AT_ONCE)]
        time.sleep(chance.uniform(0, self._work.seconds * _JOBS_AT_ONCE))
        for part in (*site.apis, *site.workers):
            part.kill_group()
        for server in (site.valkey, site.postgres):
            os.kill(server.pid, signal.SIGKILL)
        site.apis.clear()
        site.workers.clear()
        started = time.monotonic()
        for server in (site.postgres, site.valkey):
            server.stop()
            server.start()
        site.start_api()
        site.start_worker()
        for job_id in found:
            self._work.assert_whole(site, job_id, seconds=60 + 10 * _JOBS_AT_ONCE)
        return Counted(_JOBS_AT_ONCE, time.monotonic() - started)

    def b1(self, site: Site, chance: random.Random) -> None:
        found = [self._work.submit(site) for _ in range(2)]
        time.sleep(chance.uniform(0, self._work.seconds * 2))
        with _redis(site) as client:
            client.flushall()
        for job_id in found:
            self._work.assert_whole(site, job_id)

    def b2(self, site: Site, chance: random.Random) -> float:
        for part in site.workers:
            part.stop()
        site.workers.clear()
        url = site.valkey.url
        with CuttingProxy(url) as proxy:
            worker = site.start_worker(redis_url=through(proxy, url))
            until(lambda: proxy.num_connections, seconds=30, what="the worker connects")
            for _ in range(10):
                time.sleep(chance.uniform(0.1, 0.5))
                proxy.reset_all()
            job_id = site.submit(spec_of(self._work.dataset))
            started = time.monotonic()
            while site.job(job_id)["state"] == "queued":
                assert time.monotonic() - started < _CONSUMING_SECONDS, "it hears nothing"
                if not worker.is_alive():  # as whoever supervises it does
                    site.kill_workers()
                    worker = site.start_worker(redis_url=through(proxy, url))
                time.sleep(0.02)
            seconds = time.monotonic() - started
            self._work.assert_whole(site, job_id)
            site.kill_workers()
        return seconds

    def b3(self, site: Site, chance: random.Random) -> float:
        job_id = self._work.submit(site)
        time.sleep(chance.uniform(0, self._work.seconds))
        os.kill(site.valkey.pid, signal.SIGSTOP)
        try:
            slowest = 0.0
            frozen_until = time.monotonic() + 6
            while time.monotonic() < frozen_until:
                begun = time.monotonic()
                answer = site.client.get(f"/jobs/{job_id}")
                assert answer.status_code in (200, 503), answer.text
                slowest = max(slowest, time.monotonic() - begun)
                time.sleep(0.1)
            assert slowest <= 2, f"an answer took {slowest:.1f} s"
        finally:
            os.kill(site.valkey.pid, signal.SIGCONT)
        self._work.assert_whole(site, job_id)
        return slowest

    def b4(self, site: Site, _: random.Random) -> None:
        job_id = self._work.submit(site)
        for _again in range(10):  # as a broker does that delivers again
            site.backends.database.ring([job_id])
        self._work.assert_whole(site, job_id)
        with _redis(site) as client:
            until(lambda: not client.llen(QUEUE), seconds=20, what="messages wait")
        assert len(site.job(job_id)["attempts"]) == 1, site.job(job_id)["attempts"]

    def b5(self, site: Site, _: random.Random) -> float:
        for part in site.workers:
            part.send_to_group(signal.SIGSTOP)
        job_id = site.submit(spec_of(self._work.dataset))
        with _redis(site) as client:
            client.delete(QUEUE)
        for part in site.workers:
            part.send_to_group(signal.SIGCONT)
        if not site.workers:
            site.start_worker()
        started = time.monotonic()
        site.wait(job_id, lambda job: job["state"] in ("running", *FINAL), seconds=60)
        seconds = time.monotonic() - started
        self._work.assert_whole(site, job_id)
        return seconds

    def b7(self, site: Site, chance: random.Random) -> None:
        site.only_worker(lease_seconds=PATIENT_LEASE_SECONDS)
        job_id = self._work.submit(site)
        site.wait(job_id, lambda job: job["state"] == "running")
        time.sleep(chance.uniform(0, self._work.seconds / 2))
        os.kill(site.postgres.pid, chance.choice([signal.SIGQUIT, signal.SIGINT]))
        site.postgres.stop()
        site.postgres.start()
        self._work.assert_whole(site, job_id)
        assert all(part.is_alive() for part in (*site.apis, *site.workers)), "a part ended"
        assert len(site.job(job_id)["attempts"]) == 1, "another attempt took the job over"
        site.kill_workers()


def _redis(site: Site) -> redis.Redis:
    return redis.Redis.from_url(site.valkey.url, socket_timeout=5)
