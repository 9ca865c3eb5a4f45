"""Groups K and B: the servers that the service stands on die, or reset its connections."""

import os
import random
import signal
import time

from tests.cutting_proxy import CuttingProxy
from tests.drills.plan import Counted, Drill
from tests.drills.site import PATIENT_LEASE_SECONDS, Site, through, until, within
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
        Drill("B2", "connections to Valkey reset ten times", "consuming <= 30 s", trials.b2, 100),
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
                took = time.monotonic() - started
                within(_CONSUMING_SECONDS, took=took, what="it hears nothing")
                if not worker.is_alive():  # as whoever supervises it does
                    site.kill_workers()
                    worker = site.start_worker(redis_url=through(proxy, url))
                time.sleep(0.02)
            seconds = time.monotonic() - started
            self._work.assert_whole(site, job_id)
            site.kill_workers()
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
