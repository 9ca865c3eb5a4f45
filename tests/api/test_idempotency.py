"""`Idempotency-Key`: the same request again makes nothing, and is answered the same."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from api import idempotency
from api.sweeping import sweep
from jobs.backends import Backends
from jobs.settings import Settings
from tests.api.conftest import Shared, serve, spec_of, upload

pytestmark = pytest.mark.slow

NUM_AT_ONCE = 50
NUM_ROUNDS = 3


def post(client: httpx.Client, key: str, spec: dict[str, Any]) -> httpx.Response:
    return client.post("/jobs", json=spec, headers={"Idempotency-Key": key})


def num_jobs(client: httpx.Client) -> int:
    return len(client.get("/jobs?limit=100").json()["data"])


@contextmanager
def nothing_kept(backends: Backends) -> Iterator[None]:
    """Hold the table of replies, so that a first request waits at its end."""
    with backends.engine.begin() as connection:
        connection.execute(text("LOCK TABLE replies IN SHARE MODE"))
        yield


def test_the_same_request_again_is_answered_as_the_first(client: httpx.Client) -> None:
    spec = spec_of(upload(client), name="once")

    first = post(client, "order-7", spec)
    again = post(client, "order-7", spec)

    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert again.headers["Location"] == first.headers["Location"]
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert num_jobs(client) == 1


def test_the_first_reply_is_given_again_whatever_became_of_the_job(client: httpx.Client) -> None:
    spec = spec_of(upload(client))
    first = post(client, "k", spec)
    client.post(f"{first.headers['Location']}/cancel")

    assert post(client, "k", spec).json()["state"] == "queued"


def test_one_job_of_fifty_requests_at_once(client: httpx.Client) -> None:
    spec = spec_of(upload(client))
    with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
        for n in range(NUM_ROUNDS):
            asked = [pool.submit(post, client, f"round-{n}", spec) for _ in range(NUM_AT_ONCE)]
            replies = [reply.result() for reply in asked]

            assert {reply.status_code for reply in replies} == {201}
            assert len({reply.content for reply in replies}) == 1
            assert num_jobs(client) == n + 1


def test_a_second_process_answers_what_the_first_has_kept(
    client: httpx.Client, service_settings: Settings, backends: Backends
) -> None:
    spec = spec_of(upload(client))
    with serve(service_settings) as url, httpx.Client(base_url=url, timeout=30) as other:
        with ThreadPoolExecutor(2) as pool, nothing_kept(backends):
            asked = [pool.submit(post, c, "k", spec) for c in (client, other)]
            while num_waiting(backends) < 2:  # both have made a job, and neither may keep it yet
                assert not any(reply.done() for reply in asked)
        replies = [reply.result() for reply in asked]

    assert replies[0].content == replies[1].content
    assert sum("Idempotency-Replayed" in reply.headers for reply in replies) == 1
    assert num_jobs(client) == 1


def num_waiting(backends: Backends) -> int:
    with backends.engine.connect() as connection:
        query = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'relation'")
        return int(connection.execute(query).scalar_one())


@pytest.mark.parametrize(
    ("path", "change"), [("/jobs", {"name": "other"}), ("/jobs?x=1", {}), ("/models", {})]
)
def test_a_key_of_another_request_is_refused(
    shared: Shared, path: str, change: dict[str, Any]
) -> None:
    spec = spec_of(upload(shared.client))
    headers = {"Idempotency-Key": f"reused {path} {len(change)}"}
    assert shared.client.post("/jobs", json=spec, headers=headers).status_code == 201

    problem = shared.client.post(path, json={**spec, **change}, headers=headers)

    assert (problem.status_code, problem.json()["code"]) == (422, "idempotency_key_reused")
    assert problem.headers["Content-Type"] == "application/problem+json"


def test_a_key_whose_request_is_under_way_is_a_conflict(
    client: httpx.Client, backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "_WAIT_SECONDS", 0.1)
    spec = spec_of(upload(client))
    with ThreadPoolExecutor(1) as pool, nothing_kept(backends):
        first = pool.submit(post, client, "k", spec)
        while not num_waiting(backends):
            assert not first.done()
        same = post(client, "k", spec)
        other = post(client, "k", {**spec, "name": "other"})

    assert (same.status_code, same.json()["code"]) == (409, "request_in_flight")
    assert same.headers["Retry-After"] == "2"
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert post(client, "k", spec).content == first.result().content


def test_a_refusal_is_not_kept(client: httpx.Client) -> None:
    spec = spec_of(upload(client))
    refused = post(client, "k", {**spec, "task": "no-such-task"})
    assert refused.status_code == 422

    assert post(client, "k", spec).status_code == 201


def test_a_service_that_dies_before_it_answers_has_kept_the_reply(
    service_settings: Settings, backends: Backends
) -> None:
    """As after a kill between commit and answer: nothing but the database remembers."""
    with serve(service_settings) as url, httpx.Client(base_url=url, timeout=30) as client:
        spec = spec_of(upload(client))
        first = post(client, "k", spec)
    with serve(service_settings) as url, httpx.Client(base_url=url, timeout=30) as client:
        again = post(client, "k", spec)
        assert again.json()["id"] == first.json()["id"]
        assert num_jobs(client) == 1


def test_a_reply_that_cannot_be_kept_makes_no_job(client: httpx.Client, backends: Backends) -> None:
    spec = spec_of(upload(client))
    with backends.engine.begin() as connection:
        connection.execute(text("ALTER TABLE replies RENAME TO away"))

    failed = post(client, "k", spec)

    assert failed.status_code == 500
    assert num_jobs(client) == 0


def test_keys_are_forgotten_after_a_day(client: httpx.Client, backends: Backends) -> None:
    spec = spec_of(upload(client))
    first = post(client, "k", spec)
    age(backends)

    second = post(client, "k", spec)

    assert second.json()["id"] != first.json()["id"]
    assert post(client, "k", spec).content == second.content
    age(backends)
    sweep(backends)
    with backends.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM replies")).scalar_one() == 0


def age(backends: Backends) -> None:
    with backends.engine.begin() as connection:
        connection.execute(
            text("UPDATE replies SET created_at = created_at - interval '24 hours 1 second'")
        )


@pytest.mark.parametrize(("key", "status"), [("", 422), ("k" * 255, 201), ("k" * 256, 422)])
def test_a_key_has_1_to_255_characters(shared: Shared, key: str, status: int) -> None:
    reply = post(shared.client, key, spec_of(upload(shared.client)))

    assert reply.status_code == status


def test_a_base_model_is_registered_once(client: httpx.Client) -> None:
    headers = {"Idempotency-Key": "k"}
    body = {"name": "encoder", "hub": "org/encoder"}

    replies = [client.post("/models", json=body, headers=headers) for _ in range(2)]

    assert [reply.status_code for reply in replies] == [201, 201]
    assert replies[0].content == replies[1].content


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/keys", {"name": "k", "scopes": ["read"]}),
        ("/keys/key_01k9/rotate", {}),
        ("/webhooks", {"url": "https://example.org/hooks"}),
        ("/webhooks/wh_01k9/rotate-secret", {}),
        ("/projects", {"name": "vision"}),
    ],
)
def test_a_key_is_refused_where_the_reply_is_not_kept(
    shared: Shared, path: str, body: dict[str, Any]
) -> None:
    thing = path.split("/")[1]
    before = shared.client.get(f"/{thing}").json()

    refused = shared.client.post(path, json=body, headers={"Idempotency-Key": "k"})

    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_request")
    assert refused.json()["param"] == "Idempotency-Key"
    assert shared.client.get(f"/{thing}").json() == before
