"""Cancelling with keep, pausing and resuming over HTTP."""

from typing import Any

import httpx
import pytest

from jobs.backends import Backends
from jobs.states import State
from jobs.store import artifacts, attempts
from tests.api.conftest import claim, submit, succeed

pytestmark = pytest.mark.slow


def ask(client: httpx.Client, job_id: str, action: str, **body: Any) -> httpx.Response:
    return client.post(f"/jobs/{job_id}/{action}", **({"json": body} if body else {}))


def states(client: httpx.Client, job_id: str) -> list[str]:
    found = client.get(f"/jobs/{job_id}/events").json()["data"]
    return [event["data"]["state"] for event in found if event["type"] == "state"]


def test_a_queued_job_is_paused_and_resumed_and_again_is_no_error(client: httpx.Client) -> None:
    job_id = submit(client)

    answers = [ask(client, job_id, a) for a in ("pause", "pause", "resume", "resume")]

    assert [answer.status_code for answer in answers] == [200] * 4
    shown = [(answer.json()["state"], answer.json()["queue_position"]) for answer in answers]
    assert shown == [("paused", None), ("paused", None), ("queued", 1), ("queued", 1)]
    assert states(client, job_id) == ["queued", "paused", "queued"]


def test_a_running_job_is_asked_to_pause_and_not_resumed_before(
    client: httpx.Client, backends: Backends
) -> None:
    job_id = submit(client)
    claim(backends)

    assert ask(client, job_id, "pause").json()["state"] == "pausing"
    refused = ask(client, job_id, "resume")

    assert (refused.status_code, refused.json()["code"]) == (409, "illegal_transition")
    assert refused.json()["hint"] == "Resume it once it is paused."


def test_paused_jobs_are_listed(client: httpx.Client) -> None:
    job_id = submit(client)
    submit(client)
    ask(client, job_id, "pause")

    found = client.get("/jobs?state=paused").json()["data"]

    assert [job["id"] for job in found] == [job_id]


@pytest.mark.parametrize("action", ["pause", "resume", "cancel"])
def test_a_job_that_has_ended_is_a_conflict(
    client: httpx.Client, backends: Backends, action: str
) -> None:
    job_id = submit(client)
    succeed(backends, claim(backends), {"config.json": b"{}"})

    problem = ask(client, job_id, action)

    assert (problem.status_code, problem.json()["code"]) == (409, "illegal_transition")
    assert problem.json()["state"] == "succeeded"


@pytest.mark.parametrize("action", ["pause", "resume", "cancel"])
def test_an_unknown_job_is_not_found(client: httpx.Client, action: str) -> None:
    assert ask(client, "job_0123456789", action).status_code == 404


def test_keep_is_told_to_the_worker_and_cancel_without_it_is_sooner(
    client: httpx.Client, backends: Backends
) -> None:
    job_id = submit(client)
    job = claim(backends)

    def heard() -> bool:
        with backends.database.transaction() as tx:
            held = attempts.renew(tx, job_id, attempt=job.attempt, lease_seconds=60)
        assert held.state is State.CANCELLING
        return held.keep

    assert ask(client, job_id, "cancel", keep=True).json()["state"] == "cancelling"
    assert heard()
    assert ask(client, job_id, "cancel", keep=False).json()["state"] == "cancelling"
    assert not heard()


def test_the_model_of_a_cancelled_job_can_be_fetched(
    client: httpx.Client, backends: Backends
) -> None:
    job_id = submit(client)
    job = claim(backends)
    ask(client, job_id, "cancel", keep=True)
    stored = backends.storage.put("models/x", [b"{}"])
    with backends.database.transaction() as tx:
        row = {"path": "config.json", "key": "models/x", "size_bytes": 2, "sha256": stored.sha256}
        artifacts.add(tx, job_id, [row])
        attempts.end(
            tx,
            job_id,
            State.CANCELLED,
            attempt=job.attempt,
            reason="cancelled by request; its model is kept",
            values={"best": {"step": 9, "metrics": {"accuracy": 0.5}}},
        )

    assert client.get(f"/jobs/{job_id}/model/config.json").content == b"{}"
    shown = client.get(f"/jobs/{job_id}").json()
    assert (shown["state"], shown["best"]["step"]) == ("cancelled", 9)


@pytest.mark.parametrize(
    ("content", "status", "pointer"),
    [
        (b'{"keep": "yes"}', 422, "/keep"),
        (b'{"kept": true}', 422, "/kept"),
        (b"[true]", 422, ""),
        (b"null", 422, ""),
        (b"{", 400, None),
    ],
)
def test_a_wrong_body_is_refused_and_nothing_is_cancelled(
    client: httpx.Client, content: bytes, status: int, pointer: str | None
) -> None:
    job_id = submit(client)

    headers = {"Content-Type": "application/json"}
    answer = client.post(f"/jobs/{job_id}/cancel", content=content, headers=headers)

    assert answer.status_code == status
    if pointer is not None:
        assert answer.json()["errors"][0]["pointer"] == pointer
    assert client.get(f"/jobs/{job_id}").json()["state"] == "queued"


def test_a_body_that_does_not_say_that_it_is_json_is_refused(client: httpx.Client) -> None:
    job_id = submit(client)

    answer = client.post(f"/jobs/{job_id}/cancel", content=b"keep=true")

    assert answer.status_code == 415
