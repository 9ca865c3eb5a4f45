"""Group K, poison: a job that kills each process that it is given, beside others that are well."""

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tests.drills.plan import Drill
from tests.drills.site import Site, within
from tests.drills.work import Work, spec_of

_NUM_WORKERS = 2
_MOST_DELAYED = 1.1  # times what a job beside a well one takes,
_NOISE_SECONDS = 3  # and this for a machine whose cores are shared
_ENDLESS = {"training": {"max_steps": 100_000}, "checkpoints": {"strategy": "no"}}
"""Lasts for as long as is wanted, and none of its attempts gets on."""


def drills(work: Work) -> list[Drill]:
    """Return the group's drills for a site that is set up."""
    trials = _Trials(work)
    expected = f"at cap; beside <= {_MOST_DELAYED} x + {_NOISE_SECONDS} s"
    return [Drill("K13", "a job that always dies, and one beside it", expected, trials.k13, 20)]


class _Trials:
    def __init__(self, work: Work) -> None:
        self._work = work

    def k13(self, site: Site, chance: random.Random) -> float:
        site.kill_workers()
        for _ in range(_NUM_WORKERS):
            site.start_worker()
        for job_id in [self._work.submit(site) for _ in range(_NUM_WORKERS)]:
            self._work.assert_whole(site, job_id)  # now both have begun to work
        spec = spec_of(self._work.dataset, **_ENDLESS)
        well = site.submit(spec)
        usual = self._seconds_beside(site, well)
        assert len(site.job(well)["attempts"]) == 1, "it was not well"
        site.client.post(f"/jobs/{well}/cancel")
        site.wait_for_end(well)
        poison = site.submit(spec)
        with _killed(site, poison, chance, within_seconds=self._work.seconds / 2):
            seconds = self._seconds_beside(site, poison)
            job = site.wait_for_end(poison)
        _assert_given_up(site, job)
        within(_MOST_DELAYED * usual + _NOISE_SECONDS, took=seconds, what="one beside it")
        return seconds

    def _seconds_beside(self, site: Site, other: str) -> float:
        """Return how long a job takes, from its submission on, beside another that has begun."""
        site.wait(other, lambda job: job["attempts"])
        began = time.monotonic()
        job = self._work.assert_whole(site, site.submit(spec_of(self._work.dataset)))
        assert len(job["attempts"]) == 1, job["attempts"]
        return time.monotonic() - began


def _assert_given_up(site: Site, job: dict[str, Any]) -> None:
    assert job["state"] == "failed", job["state"]
    assert len(job["attempts"]) == site.settings.max_attempts, job["attempts"]
    assert job["error"]["code"] == "process_died", job["error"]
    assert "SIGKILL" in job["error"]["message"], job["error"]


@contextmanager
def _killed(
    site: Site, job_id: str, chance: random.Random, *, within_seconds: float
) -> Iterator[None]:
    """Kill each training process of a job, soon after it has begun."""
    is_over = threading.Event()

    def kill() -> None:
        while not is_over.wait(0.02):
            if site.training_pids(job_id):
                time.sleep(chance.uniform(0, within_seconds))
                for pid in site.training_pids(job_id):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    killing = threading.Thread(target=kill)
    killing.start()
    try:
        yield
    finally:
        is_over.set()
        killing.join()
