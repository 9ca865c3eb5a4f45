"""Group E: training processes that fail in every way but openly."""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.cutting_proxy import CuttingProxy
from tests.drills.control_groups import fork_server_of, limited_group, obstacle_to_control_groups
from tests.drills.disk_space import fill, mounted, obstacle_to_mounting
from tests.drills.plan import Counted, Drill
from tests.drills.site import Part, Site, through, until, within
from tests.drills.work import Work, spec_of
from worker.logs import MAX_LOG_BYTES

_MB = 1_000_000
_HELD_BYTES = 1500 * _MB
_LIMIT_BYTES = 1000 * _MB
_STALL_SECONDS = 1
_FLOOD_BYTES = 1_000 * _MB
_DEAF_SECONDS = 90
_LEASES = 3  # for which E8's step lasts
_JOBS_OF_A_BATCH = 10
_SMALLEST = {"training": {"max_steps": 1}, "checkpoints": {"strategy": "no"}}


def drills(work: Work) -> list[Drill]:
    """Return the group's drills for a site that is set up."""
    trials = _Trials(work)
    return [
        Drill("E1", "host out of memory: limit, kernel", "named, worker lives", trials.e1, 50, 2),
        Drill("E2", "GPU out of memory, as raised by torch", "named, with advice", trials.e2, 20),
        Drill("E3", "exit code 0 and no model", "failed", trials.e3, 20),
        Drill("E4", "hang in a step", "stalled, stacks kept", trials.e4, 20),
        Drill("E5", "1 GB printed, binary, no line end", "capped, worker small", trials.e5, 5),
        Drill(
            "E6", "disk 95 % full before the start", "507 or disk_full, no step", trials.e6, 10,
            obstacle=obstacle_to_mounting(),
        ),
        Drill(
            "E7", "many small jobs", "memory, files, zombies flat", trials.e7, 1000,
            unit="jobs", per_trial=_JOBS_OF_A_BATCH,
        ),
        Drill("E8", "step of three leases; deaf consumer", "stays; ends <= 90 s", trials.e8, 20),
    ]  # fmt: skip


class _Trials:
    def __init__(self, work: Work) -> None:
        self._work = work
        self._before: _Use | None = None  # E7's first jobs
        self._ways = [self._over_the_limit]  # of E1, in turn
        if obstacle_to_control_groups() is None:
            self._ways.append(self._killed_by_the_kernel)
        self._is_deaf = True  # at E8's last trial; the next one is busy

    def e1(self, site: Site, _: random.Random) -> None:
        self._ways = self._ways[1:] + self._ways[:1]
        with self._ways[0](site) as (worker, job_id):
            job = site.wait_for_end(job_id)
        assert job["state"] == "failed", (job["state"], job["attempts"])
        assert job["error"]["code"] == "out_of_memory", job["error"]
        assert job["error"]["detail"]["device"] == "host", job["error"]
        assert job["error"]["detail"]["peak_bytes"] > _LIMIT_BYTES / 2, job["error"]
        assert worker.is_alive(), "the worker died with it"

    @contextmanager
    def _over_the_limit(self, site: Site) -> Iterator[tuple[Part, str]]:
        point = f"step.ended:hold={_HELD_BYTES}:5"
        worker = site.only_worker(failpoints=point, job_memory_bytes=_LIMIT_BYTES)
        yield worker, site.submit(spec_of(self._work.dataset))

    @contextmanager
    def _killed_by_the_kernel(self, site: Site) -> Iterator[tuple[Part, str]]:
        worker = site.only_worker(failpoints=f"step.ended:hold={_HELD_BYTES}:5")
        # Its children are born into its group, and the worker is not in it.
        with limited_group(fork_server_of(site), more_bytes=_LIMIT_BYTES):
            yield worker, site.submit(spec_of(self._work.dataset))

    def e2(self, site: Site, _: random.Random) -> None:
        worker = site.only_worker(failpoints="step.ended:raise=gpu:5")
        job_id = site.submit(spec_of(self._work.dataset))
        until(lambda: site.job(job_id)["attempts"], seconds=30, what="it began")
        told = _first_error(site, job_id)
        assert told["code"] == "out_of_memory", told
        assert told["detail"]["device"].startswith("cuda"), told
        assert told["hint"], told
        assert told["detail"]["suggested_spec"]["training"]["micro_batch_size"] == 6, told
        assert worker.is_alive(), "the worker died with it"
        _end(site, job_id)

    def e3(self, site: Site, chance: random.Random) -> None:
        number = chance.randint(1, 4)  # before anything is saved, so that no attempt gets on
        point = chance.choice([f"step.ended:exit=0:{number}", "directory.written:exit=0"])
        site.only_worker(failpoints=point)
        job = site.wait_for_end(site.submit(spec_of(self._work.dataset)))
        assert job["state"] == "failed", job["state"]
        assert job["error"]["code"] == "process_died", job["error"]
        assert "exit code 0" in job["error"]["message"], job["error"]
        assert not job["artifacts"], job["artifacts"]

    def e4(self, site: Site, chance: random.Random) -> float:
        site.only_worker(failpoints=f"step.ended:sleep=60:{chance.randrange(2, 25)}")
        limit = {"resources": {"max_stall_seconds": _STALL_SECONDS}}
        job_id = site.submit(spec_of(self._work.dataset, **limit))
        until(lambda: site.training_pids(job_id), seconds=30, what="a training process")
        began = time.monotonic()
        told = _first_error(site, job_id)
        seconds = time.monotonic() - began
        assert told["code"] == "stalled", told
        within(_STALL_SECONDS + 10, took=seconds, what="it is told")
        stacks = "\n".join(told["detail"]["last_lines"])
        assert "in failpoint" in stacks, stacks
        site.only_worker()
        self._work.assert_whole(site, job_id)
        return seconds

    def e5(self, site: Site, _: random.Random) -> None:
        worker = site.only_worker(failpoints=f"step.ended:print={_FLOOD_BYTES}:5")
        first = site.submit(spec_of(self._work.dataset, **_SMALLEST))
        self._assert_quiet_end(site, first)
        before = _resident_bytes([worker.pid])
        job_id = site.submit(spec_of(self._work.dataset))
        most, largest = before, 0
        while site.job(job_id)["state"] in ("queued", "running"):
            most = max(most, _resident_bytes([worker.pid]))
            logs = site.settings.home.glob(f"runs/{job_id}/attempt-*/log.txt")
            largest = max([largest, *(log.stat().st_size for log in logs if log.exists())])
            time.sleep(0.05)
        self._work.assert_whole(site, job_id)
        assert most - before <= 50 * _MB, f"the worker grew by {(most - before) / _MB:.0f} MB"
        assert largest <= 8 * MAX_LOG_BYTES, f"the log came to {largest} bytes"
        page = site.client.get(f"/jobs/{job_id}/logs")
        assert page.status_code == 200, page.text[:500]
        assert not [c for c in page.text if ord(c) < 32 and c not in "\n\t"], "it steers a terminal"
        assert len(page.content) <= 20 * _MB, f"the log has {len(page.content)} bytes"

    def _assert_quiet_end(self, site: Site, job_id: str) -> None:
        job = site.wait_for_end(job_id)
        assert job["state"] == "succeeded", job["error"]

    def e6(self, site: Site, chance: random.Random) -> None:
        site.only_worker()
        if chance.random() < 0.5:
            with _nearly_full(site.settings.home / "uploads"):
                rows = {"file": ("rows.csv", self._work.rows * 200)}
                answer = site.client.post("/datasets", files=rows)
            assert answer.status_code == 507, (answer.status_code, answer.text)
            return
        with _nearly_full(site.settings.home / "runs"):
            job_id = site.submit(spec_of(self._work.dataset))
            job = site.wait_for_end(job_id)
        assert job["state"] == "failed", job["state"]
        assert job["error"]["code"] == "disk_full", job["error"]
        assert job["progress"] is None, job["progress"]

    def e7(self, site: Site, _: random.Random) -> Counted:
        if self._before is None or not site.workers:  # those that were measured are gone
            site.only_worker()
            site.only_api()
            self._do_batch(site)
            self._before = _Use(site)
        self._do_batch(site)
        now = _Use(site)
        assert now.resident_bytes <= 1.1 * self._before.resident_bytes, (now, self._before)
        assert now.num_files <= self._before.num_files + 10, (now, self._before)
        assert now.num_zombies == 0, now
        return Counted(_JOBS_OF_A_BATCH)

    def _do_batch(self, site: Site) -> None:
        spec = spec_of(self._work.dataset, **_SMALLEST)
        for job_id in [site.submit(spec) for _ in range(_JOBS_OF_A_BATCH)]:
            self._assert_quiet_end(site, job_id)

    def e8(self, site: Site, chance: random.Random) -> float | None:
        self._is_deaf = not self._is_deaf
        return self._deaf(site) if self._is_deaf else self._busy(site, chance)

    def _deaf(self, site: Site) -> float:
        site.kill_workers()
        with CuttingProxy(site.valkey.url) as proxy:
            worker = site.start_worker(redis_url=through(proxy, site.valkey.url))
            until(lambda: proxy.num_connections, seconds=30, what="the worker connects")
            time.sleep(2)
            proxy.swallow_all()
            job_id = site.submit(spec_of(self._work.dataset))
            swallowed = time.monotonic()
            while worker.is_alive() and site.job(job_id)["state"] == "queued":
                took = time.monotonic() - swallowed
                within(_DEAF_SECONDS, took=took, what="it is deaf and stays")
                time.sleep(0.1)
            seconds = time.monotonic() - swallowed
            site.only_worker()
            self._work.assert_whole(site, job_id)
        return seconds

    def _busy(self, site: Site, chance: random.Random) -> None:
        seconds = site.settings.lease_seconds * _LEASES
        site.only_worker(failpoints=f"step.ended:sleep={seconds}:{chance.randrange(2, 25)}")
        site.start_worker()  # which would take the job over
        found = [site.submit(spec_of(self._work.dataset)) for _ in range(2)]
        until(lambda: any(site.training_pids(job) for job in found), seconds=30, what="a run")
        for job_id in found:
            job = self._work.assert_whole(site, job_id)
            assert len(job["attempts"]) == 1, job["attempts"]


class _Use:
    """What the service's processes hold, but for those that train."""

    def __init__(self, site: Site) -> None:
        leaders = [part.pid for part in (*site.workers, *site.apis)]
        self.resident_bytes = _resident_bytes([*leaders, fork_server_of(site)])
        self.num_files = sum(one.num_fds() for one in _families(leaders))
        families = _families([*leaders, fork_server_of(site)])
        self.num_zombies = sum(one.status() == psutil.STATUS_ZOMBIE for one in families)

    def __repr__(self) -> str:
        return f"{self.resident_bytes / _MB:.0f} MB, {self.num_files} files, {self.num_zombies} Z"


def _families(leaders: list[int]) -> list[psutil.Process]:
    found = [psutil.Process(pid) for pid in leaders]
    return [*found, *(child for one in found for child in one.children(recursive=True))]


def _resident_bytes(leaders: list[int]) -> int:
    return sum(int(one.memory_info().rss) for one in _families(leaders))


@contextmanager
def _nearly_full(folder: Path) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    with mounted(folder, size="4m"):
        fill(folder, share=0.95)
        yield


def _first_error(site: Site, job_id: str) -> dict[str, Any]:
    def told() -> bool:
        return any(e["type"] == "error" for e in site.events(job_id))

    until(told, seconds=30, what="an error is told")
    return site.message(job_id, "error")


def _end(site: Site, job_id: str) -> None:
    site.client.post(f"/jobs/{job_id}/cancel")
    site.wait_for_end(job_id)
