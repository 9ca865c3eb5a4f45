"""Group D: requests to cancel, in every state and at every moment."""

import random
import time

from tests.drills.plan import Drill
from tests.drills.site import FINAL, Site, until
from tests.drills.work import Work, spec_of

_MAX_SECONDS = 10
_PAUSED_SHARE = 0.3  # of the jobs are pausing or paused when they are cancelled


def drills(work: Work) -> list[Drill]:
    """Return the group's drills for a site that is set up."""
    trials = _Trials(work)
    return [
        Drill("D3", "cancelled at a random moment", "one final state <= 10 s", trials.d3, 300),
        Drill("D4", "cancelled while no worker is alive", "never runs", trials.d4, 50),
        Drill("D5", "cancelled while the next job begins", "the next is untouched", trials.d5, 200),
    ]


class _Trials:
    def __init__(self, work: Work) -> None:
        self._work = work

    def d3(self, site: Site, chance: random.Random) -> float:
        job_id = self._work.submit(site)
        time.sleep(chance.uniform(0, self._work.seconds * 1.2))
        if chance.random() < _PAUSED_SHARE:
            site.client.post(f"/jobs/{job_id}/pause")
            time.sleep(chance.uniform(0, 1))
        started = time.monotonic()
        answer = site.client.post(f"/jobs/{job_id}/cancel")
        job = site.wait_for_end(job_id, seconds=_MAX_SECONDS)
        seconds = time.monotonic() - started
        expected = "cancelled" if answer.status_code == 200 else "succeeded"
        assert answer.status_code in (200, 409), answer.text
        assert job["state"] == expected, (answer.text, job["state"])
        until(lambda: not site.training_pids(job_id), seconds=_MAX_SECONDS, what="it lives on")
        assert bool(job["artifacts"]) == (expected == "succeeded"), job["artifacts"]
        return seconds

    def d4(self, site: Site, _: random.Random) -> None:
        for part in site.workers:
            part.stop()
        site.workers.clear()
        job_id = site.submit(spec_of(self._work.dataset))
        assert site.client.post(f"/jobs/{job_id}/cancel").json()["state"] == "cancelled"
        follower = self._work.submit(site)
        assert site.wait_for_end(follower)["state"] == "succeeded"
        job = site.job(job_id)
        assert (job["state"], job["attempts"]) == ("cancelled", []), job

    def d5(self, site: Site, chance: random.Random) -> None:
        first, second = self._work.submit(site), self._work.submit(site)
        site.wait(first, lambda job: job["state"] in ("running", *FINAL))
        time.sleep(chance.uniform(0, self._work.seconds * 1.2))
        site.client.post(f"/jobs/{first}/cancel")
        job = site.wait_for_end(second)
        assert job["state"] == "succeeded", job["error"]
        assert site.weights(job) == self._work.weights
        site.wait_for_end(first)
