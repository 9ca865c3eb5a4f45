"""Group K: processes that die, freeze or are told to leave."""

import os
import random
import signal
import time
from contextlib import suppress

import httpx
import pytest
from sqlalchemy import text

from tests.drills.plan import Drill
from tests.drills.site import Part, Site, TooSlow, until, within
from tests.drills.work import Work, spec_of
from worker.group import members_of

_POINTS = (
    "worker.claimed", "worker.trained", "worker.stored",
    "directory.written", "directory.sealed", "directory.renamed", "directory.discarding",
)  # fmt: skip


def drills(work: Work) -> list[Drill]:
    """Return the group's drills for a site that is set up."""
    trials = _Trials(work)
    return [
        Drill("K1", "worker killed at a random moment", "same weights, once", trials.k1, 100),
        Drill("KP", "killed at a named point of worker or save", "same weights", trials.kp, 70, 2),
        Drill("K3", "training process killed", "attempt names the signal", trials.k3, 60),
        Drill("K4", "supervisor killed, training process lives", "gone <= 5 s", trials.k4, 50),
        Drill(
            "K5",
            "worker and training process gone",
            "taken over <= 1.5 leases",
            trials.k5,
            50,
        ),
        Drill("K6", "frozen worker wakes after its job was taken", "0 writes", trials.k6, 50),
        Drill("K7", "worker told to leave", "saved, at most one step redone", trials.k7, 50),
        Drill("K8", "worker killed while it saves to leave", "resumes", trials.k8, 30),
        Drill("K9", "API killed between commit and bell", "starts all the same", trials.k9, 100),
        Drill("K12", "worker killed after the last write", "nothing changes", trials.k12, 50),
    ]


class _Trials:
    def __init__(self, work: Work) -> None:
        self._work = work

    def k1(self, site: Site, chance: random.Random) -> float:
        job_id = self._work.running(site)
        time.sleep(chance.uniform(0, self._work.seconds))
        site.kill_workers()
        killed = time.monotonic()
        site.start_worker()
        self._work.assert_whole(site, job_id)
        return time.monotonic() - killed

    def kp(self, site: Site, chance: random.Random) -> None:
        point = chance.choice(_POINTS)
        worker = site.only_worker(failpoints=f"{point}:kill")
        until(lambda: _pool(worker), seconds=30, what="the worker's pool")
        pool = _pool(worker)
        job_id = self._work.submit(site)
        if point.startswith("worker"):
            until(lambda: _pool(worker) != pool, seconds=60, what=f"it outlived {point}")
        else:
            ended = "attempts[0] has not ended"
            until(lambda: _first_end(site, job_id), seconds=60, what=f"{point}: {ended}")
        site.only_worker()
        self._work.assert_whole(site, job_id)

    def k3(self, site: Site, chance: random.Random) -> float:
        number = chance.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
        job_id = self._work.running(site)
        until(lambda: site.training_pids(job_id), seconds=20, what="a training process")
        time.sleep(chance.uniform(0, self._work.seconds / 2))
        pids = site.training_pids(job_id)
        if not pids:  # too late: it has trained
            self._work.assert_whole(site, job_id)
            return 0
        for pid in pids:
            os.kill(pid, number)
        seconds = until(lambda: _first_end(site, job_id), seconds=5)
        self._work.assert_whole(site, job_id)
        told = [e["data"] for e in site.events(job_id) if e["type"] == "error"]
        if told:  # else it had written its outcome already
            assert number.name in told[0]["message"], told
        return seconds

    def k4(self, site: Site, chance: random.Random) -> float:
        job_id = self._work.running(site)
        until(lambda: site.training_pids(job_id), seconds=20, what="a training process")
        time.sleep(chance.uniform(0, 1))
        site.kill_workers()
        seconds = until(lambda: not site.training_pids(job_id), seconds=5, what="it lives on")
        site.start_worker()
        self._work.assert_whole(site, job_id)
        return seconds

    def k5(self, site: Site, chance: random.Random) -> float:
        while len(site.workers) < 2:
            site.start_worker()
        for part in site.workers:
            until(lambda part=part: _pool(part), seconds=30, what="a worker's pool")
        job_id = self._work.running(site)
        until(lambda: site.training_pids(job_id), seconds=20, what="a training process")
        time.sleep(chance.uniform(0, self._work.seconds / 2))
        gone = _holder(site, job_id)
        everybody = [*site.training_pids(job_id), *(one.pid for one in members_of(gone.pid))]
        for number in (signal.SIGSTOP, signal.SIGKILL):  # frozen first: nobody is left to act
            for pid in everybody:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
        seconds = until(lambda: len(site.job(job_id)["attempts"]) > 1, seconds=30)
        job = self._work.assert_whole(site, job_id)
        assert job["attempts"][1]["worker"] != job["attempts"][0]["worker"], job["attempts"]
        gone.kill_group()
        site.workers.remove(gone)
        within(1.5 * site.settings.lease_seconds, took=seconds, what="it is taken over")
        return seconds

    def k6(self, site: Site, chance: random.Random) -> None:
        job_id = self._work.running(site)
        time.sleep(chance.uniform(0, self._work.seconds / 2))
        zombie = site.workers.pop()
        zombie.send_to_group(signal.SIGSTOP)
        trainings = site.training_pids(job_id)
        for pid in trainings:
            os.kill(pid, signal.SIGSTOP)
        site.start_worker()
        self._work.assert_whole(site, job_id)
        before = _row(site, job_id)
        for pid in trainings:
            os.kill(pid, signal.SIGCONT)
        zombie.send_to_group(signal.SIGCONT)
        until(lambda: not site.training_pids(job_id), seconds=10, what="its process lives on")
        time.sleep(1)
        assert _row(site, job_id) == before, "the zombie wrote"
        zombie.kill_group()

    def k7(self, site: Site, chance: random.Random) -> float:
        job_id = self._work.running(site)
        site.wait(job_id, lambda job: (job["progress"] or {}).get("step", 0) >= 1)
        time.sleep(chance.uniform(0, 1))
        seconds = _leave(site.workers.pop())
        within(30, took=seconds, what="it leaves")
        site.start_worker()
        attempts = self._work.assert_whole(site, job_id)["attempts"]
        assert isinstance(attempts, list)
        # Else it was done before it left, or the second attempt had no step to tell.
        if len(attempts) > 1 and attempts[1]["first_step"] is not None:
            redone = attempts[0]["last_step"] - attempts[1]["first_step"] + 1
            assert redone <= 1, attempts
        return seconds

    def k8(self, site: Site, chance: random.Random) -> None:
        job_id = self._work.running(site)
        site.wait(job_id, lambda job: (job["progress"] or {}).get("step", 0) >= 1)
        worker = site.workers.pop()
        worker.send(signal.SIGTERM)
        time.sleep(chance.uniform(0, 0.6))
        second = chance.choice([signal.SIGTERM, signal.SIGKILL])
        if second is signal.SIGKILL:
            worker.kill_group()
        else:
            worker.send(second)
            worker.stop(seconds=30)
        site.start_worker()
        self._work.assert_whole(site, job_id)

    def k9(self, site: Site, _: random.Random) -> float:
        if not site.workers:
            site.start_worker()
        site.only_api(failpoints="job.committed:kill")
        before = _ids(site)
        with pytest.raises(httpx.TransportError):
            site.submit(spec_of(self._work.dataset))
        killed = time.monotonic()
        site.apis.clear()
        site.start_api()
        (job_id,) = _ids(site) - before
        self._work.assert_whole(site, job_id)
        return time.monotonic() - killed

    def k12(self, site: Site, _: random.Random) -> None:
        site.only_worker(failpoints="worker.ended:kill")
        job_id = site.submit(spec_of(self._work.dataset))
        self._work.assert_whole(site, job_id)
        before = _row(site, job_id)
        site.only_worker()
        until(
            lambda: not (site.settings.home / "runs" / job_id).exists(),
            seconds=30,
            what="what the job left is there still",
        )
        assert _row(site, job_id) == before


def _pool(worker: Part) -> set[int]:
    """Return the children of a worker that carry out jobs."""
    return {one.pid for one in members_of(worker.pid) if one.parent == worker.pid}


def _holder(site: Site, job_id: str) -> Part:
    """Return the worker of a job's first attempt, whose name has the number of its pool's child."""
    name = site.job(job_id)["attempts"][0]["worker"]
    pid = int(name.partition("@")[0].rpartition("-")[2])
    return next(part for part in site.workers if pid in _pool(part) | {part.pid})


def _first_end(site: Site, job_id: str) -> object:
    attempts = site.job(job_id)["attempts"]
    return attempts and attempts[0]["finished_at"]


def _leave(worker: Part) -> float:
    started = time.monotonic()
    worker.send(signal.SIGTERM)
    worker.process.join(60)
    seconds = time.monotonic() - started
    if worker.is_alive():
        raise TooSlow(f"it did not leave within {seconds:.0f} s")
    return seconds


def _row(site: Site, job_id: str) -> tuple[object, ...]:
    with site.backends.engine.connect() as connection:
        query = text("SELECT j::text FROM jobs j WHERE id = :id")  # last_event_id is in it
        return tuple(connection.execute(query, {"id": job_id}).one())


def _ids(site: Site) -> set[str]:
    return {job["id"] for job in site.client.get("/jobs", params={"limit": 100}).json()["data"]}
