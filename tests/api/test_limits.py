"""Limits of requests and quotas, over HTTP."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
from sqlalchemy import event

from api.keyring import FRESH_SECONDS, Caller, Keyring
from jobs.backends import Backends
from jobs.settings import Settings
from jobs.store import keys, rates
from tests.api.access import Door
from tests.api.conftest import CSV, serve, spec_of, submit, upload
from tests.api.statements import statements_of_requests

pytestmark = pytest.mark.slow


@pytest.fixture
def door(service_settings: Settings, backends: Backends) -> Iterator[Door]:
    with serve(service_settings.model_copy(update={"auth": "keys"}), marks_requests=True) as url:
        yield Door(url, backends)


def test_key_that_asks_too_often_is_told_when_to_come_back_and_others_are_not_held_up(
    door: Door,
) -> None:
    with (
        door.client("loud", requests_per_second=5) as loud,
        door.client("quiet", requests_per_second=5) as quiet,
    ):
        answers = [loud.get("/jobs") for _ in range(30)]
        others = [quiet.get("/jobs").status_code for _ in range(5)]

    refused = [answer for answer in answers if answer.status_code == 429]
    assert [answer.status_code for answer in answers[:10]] == [200] * 10  # two seconds' worth
    assert len(refused) >= 10
    assert others == [200] * 5
    problem = refused[0].json()
    assert problem["code"] == "rate_limited"
    assert refused[0].headers["Retry-After"] == str(problem["retry_after_seconds"]) == "1"


def test_request_that_makes_something_counts_once(door: Door) -> None:
    with door.client("loud", requests_per_second=5) as loud:
        answers = [loud.post("/jobs", json={}).status_code for _ in range(10)]

    assert answers == [422] * 10  # two seconds' worth


def test_request_that_waited_as_told_is_let_in(door: Door) -> None:
    with door.client("loud", requests_per_second=2) as loud:
        while (answer := loud.get("/jobs")).status_code == 200:
            pass
        time.sleep(int(answer.headers["Retry-After"]))

        assert loud.get("/jobs").status_code == 200


def test_flood_of_one_key_costs_the_database_next_to_nothing(door: Door) -> None:
    async def flood(secret: str, count: int) -> Counter[int]:
        headers = {"Authorization": f"Bearer {secret}"}
        async with httpx.AsyncClient(base_url=door.url, headers=headers, timeout=60) as client:
            answers = await asyncio.gather(*(client.get("/tasks") for _ in range(count)))
        return Counter(answer.status_code for answer in answers)

    secret = door.secret("loud", requests_per_second=20)
    with statements_of_requests() as statements:
        began = time.monotonic()
        found = asyncio.run(flood(secret, 500))
        seconds = time.monotonic() - began

    assert found[200] + found[429] == 500
    assert 40 <= found[200] <= 40 + 20 * seconds + 1
    # The key is read each two seconds, and noted once a minute. Its bucket is read and written for
    # each of the four draws of ten tokens that it began with, and each half a second: once for
    # tokens, and once to learn that there are none.
    assert 4 <= len(statements) <= 12 * seconds + 60, Counter(statements)


def test_thousand_streams_of_a_key_look_it_up_once_in_two_seconds(backends: Backends) -> None:
    with backends.database.transaction() as tx:
        made = keys.issue(tx, project="default", name="many", scopes=["read"])
    keyring = Keyring(backends.database, is_open=False, rate=100)
    looks: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        looks.append(statement)

    async def ask(caller: Caller) -> tuple[set[bool], int]:
        await asyncio.sleep(FRESH_SECONDS)
        looks.clear()
        answers = await asyncio.gather(*(keyring.still_admits(caller) for _ in range(1000)))
        return set(answers), len(looks)

    async def follow() -> list[tuple[set[bool], int]]:
        caller = await keyring.admit(made.secret)
        while_it_works = await ask(caller)
        with backends.database.transaction() as tx:
            keys.revoke(tx, made.key.id, project=None)
        return [while_it_works, await ask(caller)]

    event.listen(backends.engine, "before_cursor_execute", note)
    assert asyncio.run(follow()) == [({True}, 1), ({False}, 1)]


def test_all_processes_together_keep_to_one_limit(door: Door) -> None:
    secret = door.secret("loud", requests_per_second=2)
    with door.client() as client:
        (key,) = client.get("/keys?project=loud").json()["data"]
    drawn = []
    for _ in range(4):  # as many processes
        with door.backends.database.transaction() as tx:
            drawn.append(rates.draw(tx, key["id"], rate=2, burst=4, wanted=3))

    assert [one.tokens for one in drawn] == [3, 1, 0, 0]
    assert 0 < drawn[-1].wait_seconds <= 1.5
    with door.client_of(secret) as loud:
        assert loud.get("/jobs").status_code in (200, 429)


def test_quotas_are_told_with_what_to_do_and_leave_other_projects_alone(door: Door) -> None:
    with door.client() as operator, door.client("small") as small, door.client("other") as other:
        quotas = {"max_queued_jobs": 1, "max_storage_bytes": 3 * len(CSV)}
        operator.patch("/projects/small", json=quotas).raise_for_status()
        submit(small)
        full = small.post("/jobs", json=spec_of(upload(small)))
        upload(small)
        too_much = small.post("/datasets", files={"file": ("train.csv", CSV)})
        stored = small.get("/datasets").json()["data"]
        submit(other)
        use = small.get("/projects/small").json()["use"]

    assert (full.status_code, full.json()["code"]) == (429, "quota_exceeded")
    assert (full.json()["quota"], full.json()["limit"]) == ("max_queued_jobs", 1)
    assert full.headers["Retry-After"] == "30"
    assert (too_much.status_code, too_much.json()["quota"]) == (429, "max_storage_bytes")
    assert len(stored) == 3
    assert use["queued_jobs"] == 1
    assert use["storage_bytes"] == 3 * len(CSV)
    kept = list((door.backends.settings.home / "storage" / "datasets").iterdir())
    assert len(kept) == 4, "the file of a refused upload was left behind"


def test_job_is_not_valid_while_the_quota_is_full_and_its_data_set_is(door: Door) -> None:
    with door.client() as operator, door.client("small") as small:
        operator.patch("/projects/small", json={"max_queued_jobs": 1}).raise_for_status()
        spec = spec_of(upload(small))
        free = small.post("/jobs/validate", json=spec).json()
        submit(small)
        full = small.post("/jobs/validate", json=spec).json()
        refused = small.post("/jobs", json=spec)
        url = f"/datasets/{spec['data']['train'].removeprefix('dataset:')}/validate"
        dataset = small.post(url, json={"task": spec["task"]}).json()

    assert free["is_valid"]
    assert not full["is_valid"]
    assert [error["code"] for error in full["errors"]] == ["quota_exceeded"]
    assert full["errors"][0]["message"] == refused.json()["detail"]
    assert full["rows"] == free["rows"]
    assert dataset["is_valid"]


def test_upload_that_would_be_too_much_leaves_no_file(door: Door) -> None:
    with door.client() as operator, door.client("small") as small:
        quotas = {"max_storage_bytes": len(CSV) + 10}
        operator.patch("/projects/small", json=quotas).raise_for_status()
        upload(small)
        refused = small.post("/datasets", files={"file": ("train.csv", CSV)})

    assert refused.status_code == 429
    kept = list((door.backends.settings.home / "storage" / "datasets").iterdir())
    assert len(kept) == 1
