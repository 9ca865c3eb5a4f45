"""Groups K, B and D: requests that are repeated under an idempotency key."""

import random
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
from sqlalchemy import text

from tests.cutting_proxy import CuttingProxy
from tests.drills.plan import Counted, Drill
from tests.drills.site import Site, TooSlow, through, until
from tests.drills.work import Work, spec_of

_NUM_AT_ONCE = 50
_NUM_ROUNDS = 20  # of B9, a trial
_RETRY_SECONDS = 30
_PASSING = (409, 503)  # answers after which a client tries again with the same key
_REPLAYED = "Idempotency-Replayed"


def drills(work: Work) -> list[Drill]:
    """Return the group's drills for a site that is set up."""
    trials = _Trials(work)
    return [
        Drill(
            "K10", "API killed before it answers; retry by key", "one job, once", trials.k10,
            100,
        ),
        Drill(
            "B9", "connection cut once COMMIT is sent; retry", "one job a key", trials.b9,
            200, unit="rounds", per_trial=_NUM_ROUNDS,
        ),
        Drill(
            "D1", "one key, 50 requests at once", "one job, one answer", trials.d1, 200,
            unit="rounds",
        ),
        Drill(
            "D2", "key used for another body; while it runs", "422; 409", trials.d2, 20,
        ),
    ]  # fmt: skip


class _Trials:
    def __init__(self, work: Work) -> None:
        self._work = work

    def k10(self, site: Site, _: random.Random) -> float:
        key = _new_key()
        site.only_api(failpoints="job.committed:kill")
        before = _ids(site)
        try:
            answer = self._post(site.client, key)
            raise AssertionError(f"it lived to answer {answer.status_code}")
        except httpx.TransportError:
            site.apis.clear()
        killed = time.monotonic()
        site.start_api()
        answer = self._insist(site.client, key)
        seconds = time.monotonic() - killed
        (job_id,) = _ids(site) - before
        assert answer.json()["id"] == job_id, answer.text
        if not any(part.is_alive() for part in site.workers):
            site.start_worker()
        job = self._work.assert_whole(site, job_id)
        assert len(job["attempts"]) == 1, job["attempts"]
        return seconds

    def b9(self, site: Site, chance: random.Random) -> Counted:
        site.kill_workers()
        with _api_behind_proxy(site) as proxy:
            for _ in range(_NUM_ROUNDS):
                key, before = _new_key(), _ids(site)
                proxy.num_passed_before_cut = chance.randrange(4)
                proxy.cut_after_request = b"COMMIT"
                answer = self._insist(site.client, key)
                proxy.cut_after_request = None
                (job_id,) = _ids(site) - before
                assert answer.json()["id"] == job_id, answer.text
                site.client.post(f"/jobs/{job_id}/cancel")
            assert proxy.num_cuts, "nothing was cut"
        return Counted(_NUM_ROUNDS)

    def d1(self, site: Site, _: random.Random) -> None:
        site.kill_workers()
        key, before = _new_key(), _ids(site)
        with ThreadPoolExecutor(_NUM_AT_ONCE) as pool:
            first = list(pool.map(lambda _: self._post(site.client, key), range(_NUM_AT_ONCE)))
        strange = {a.status_code for a in first} - {201, 409}
        assert not strange, strange
        answers = [a if a.status_code == 201 else self._insist(site.client, key) for a in first]
        assert len({a.text for a in answers}) == 1, "answers differ"
        assert sum(_REPLAYED not in a.headers for a in answers) == 1, "it was done twice"
        (job_id,) = _ids(site) - before
        site.client.post(f"/jobs/{job_id}/cancel")

    def d2(self, site: Site, _: random.Random) -> None:
        site.kill_workers()
        key = _new_key()
        assert self._post(site.client, key).status_code == 201
        other = self._post(site.client, key, labels={"other": "body"})
        _assert_problem(other, 422)
        key = _new_key()
        with ThreadPoolExecutor(1) as pool:
            with site.backends.engine.begin() as connection:
                connection.execute(text("LOCK TABLE replies IN SHARE MODE"))  # none can be kept
                first = pool.submit(self._post, site.client, key)
                time.sleep(0.5)
                _assert_problem(self._post(site.client, key), 409)
            assert first.result().status_code == 201, first.result().text
        for job_id in _ids(site):
            site.client.post(f"/jobs/{job_id}/cancel")

    def _post(self, client: httpx.Client, key: str, **changes: Any) -> httpx.Response:
        return _post(client, spec_of(self._work.dataset, **changes), key)

    def _insist(self, client: httpx.Client, key: str) -> httpx.Response:
        """Ask again until the answer is final."""
        deadline = time.monotonic() + _RETRY_SECONDS
        while True:
            if time.monotonic() >= deadline:
                raise TooSlow(f"no final answer within {_RETRY_SECONDS} s")
            try:
                answer = self._post(client, key)
            except httpx.TransportError:
                continue
            if answer.status_code == 201:
                return answer
            assert answer.status_code in _PASSING, answer.text
            time.sleep(0.1)


@contextmanager
def _api_behind_proxy(site: Site) -> Iterator[CuttingProxy]:
    """Give a proxy between an API and the database, while there is no other API."""
    with CuttingProxy(str(site.settings.database_url)) as proxy:
        url = through(proxy, str(site.settings.database_url))
        site.only_api(database_url=url, sweep_seconds=3600)
        yield proxy
        site.apis.pop().stop()
    site.start_api()
    until(lambda: site.client.get("/readyz").status_code == 200, seconds=20, what="ready")


def _post(client: httpx.Client, spec: dict[str, Any], key: str) -> httpx.Response:
    return client.post("/jobs", json=spec, headers={"Idempotency-Key": key})


def _assert_problem(answer: httpx.Response, status: int) -> None:
    assert answer.status_code == status, (answer.status_code, answer.text)
    assert answer.headers["content-type"].startswith("application/problem+json"), answer.headers


def _new_key() -> str:
    return secrets.token_hex(16)


def _ids(site: Site) -> set[str]:
    return {job["id"] for job in site.client.get("/jobs", params={"limit": 100}).json()["data"]}
