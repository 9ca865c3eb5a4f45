"""Asking for a push: what is checked, what is kept, and who may; no worker is there."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from jobs.backends import Backends
from jobs.store import checkpoints, pushes
from tests.api.conftest import Shared, claim, save, spec_of, submit, succeed, upload

pytestmark = pytest.mark.slow

FILES = {"config.json": b"{}"}


@pytest.fixture(scope="module", autouse=True)
def _token(shared: Shared) -> Iterator[None]:
    for name in ("my-hf", "other"):
        shared.client.put(f"/secrets/{name}", json={"value": f"hf_{name}_0123456789"})
    yield
    for name in ("my-hf", "other"):
        shared.client.delete(f"/secrets/{name}")


def finished(shared: Shared, **changes: Any) -> str:
    """Return a job that has a model."""
    job_id = submit(shared.client, resources={"priority": 100}, **changes)
    job = claim(shared.backends)
    assert job.id == job_id
    succeed(shared.backends, job, FILES)
    return job_id


def ask(shared: Shared, job_id: str, body: Any, **headers: str) -> httpx.Response:
    return shared.client.post(f"/jobs/{job_id}/push", json=body, headers=headers)


def fail_next(backends: Backends) -> None:
    with backends.database.transaction() as tx:
        push = pushes.claim(tx, lease_seconds=60)
        assert push is not None
        error = {
            "code": "push_failed", "message": "no.", "hint": "", "whose": "system",
            "retryable": True, "param": None, "detail": {},
        }  # fmt: skip
        pushes.fail(tx, push, error=error)


def test_push_is_private_unless_said_and_shown_with_the_job(shared: Shared) -> None:
    job_id = finished(shared, secrets={"hf": "my-hf"})

    answer = ask(shared, job_id, {"repo": "me/m"})

    assert answer.status_code == 202, answer.text
    push = answer.json()
    assert (push["number"], push["repo"], push["private"]) == (1, "me/m", True)
    assert (push["state"], push["num_tries"], push["error"]) == ("pending", 0, None)
    assert shared.client.get(f"/jobs/{job_id}").json()["pushes"] == [push]
    fail_next(shared.backends)
    (failed,) = shared.client.get(f"/jobs/{job_id}").json()["pushes"]
    assert (failed["state"], failed["error"]["code"]) == ("failed", "push_failed")
    assert shared.client.get(f"/jobs/{job_id}").json()["state"] == "succeeded"


def test_what_the_body_leaves_out_is_as_the_spec_says(shared: Shared) -> None:
    said = {"repo": "me/m", "private": False, "branch": "v1", "secret": "other"}
    job_id = finished(shared, output={"push": said})

    push = ask(shared, job_id, {"branch": "v2", "tag": "t"}).json()

    assert {name: push[name] for name in ("repo", "private", "branch", "tag")} == {
        "repo": "me/m", "private": False, "branch": "v2", "tag": "t",
    }  # fmt: skip
    fail_next(shared.backends)


def test_one_push_at_a_time_and_a_key_repeats_none(shared: Shared) -> None:
    job_id = finished(shared, secrets={"hf": "my-hf"})
    first = ask(shared, job_id, {"repo": "me/m"}, **{"Idempotency-Key": job_id})
    again = ask(shared, job_id, {"repo": "me/m"}, **{"Idempotency-Key": job_id})
    other = ask(shared, job_id, {"repo": "me/other"})

    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["Idempotency-Replayed"] == "true"
    assert (other.status_code, other.json()["code"]) == (409, "push_pending")
    fail_next(shared.backends)
    assert ask(shared, job_id, {"repo": "me/other"}).json()["number"] == 2
    fail_next(shared.backends)


def test_job_without_a_model_has_nothing_to_push(shared: Shared) -> None:
    job_id = submit(shared.client, secrets={"hf": "my-hf"})
    answer = ask(shared, job_id, {"repo": "me/m"})
    assert (answer.status_code, answer.json()["code"]) == (409, "model_not_ready")
    shared.client.post(f"/jobs/{job_id}/cancel")


def test_checkpoint_of_a_running_job_is_pushed_and_stays_until_it_is(shared: Shared) -> None:
    job_id = submit(shared.client, secrets={"hf": "my-hf"}, resources={"priority": 100})
    job = claim(shared.backends)
    assert job.id == job_id
    for step in (10, 20):
        save(shared.backends, job, step, FILES)
    path = f"/jobs/{job_id}/checkpoints/checkpoint-10"

    push = shared.client.post(f"{path}/push", json={"repo": "me/m", "branch": "step-10"})
    again = shared.client.post(f"{path}/push", json={"repo": "me/m"})
    other = shared.client.post(path.replace("10", "20") + "/push", json={"repo": "me/m"})
    succeed(shared.backends, job, FILES)  # whose spec might have asked for a push itself
    finished = ask(shared, job_id, {"repo": "me/m"})

    assert (push.status_code, push.json()["checkpoint"]) == (202, "checkpoint-10"), push.text
    assert (again.status_code, again.json()["code"]) == (409, "push_pending")
    assert (other.status_code, finished.status_code) == (202, 202)
    shown = shared.client.get(f"/jobs/{job_id}").json()["pushes"]
    assert [one["checkpoint"] for one in shown] == ["checkpoint-10", "checkpoint-20", None]
    with shared.backends.database.transaction() as tx:  # one at a time, and in this order
        first = pushes.claim(tx, lease_seconds=60)
        assert first is not None
        assert (first.number, pushes.claim(tx, lease_seconds=60)) == (1, None)
        checkpoints.expire(tx, kept_for=timedelta(0))
        assert [one.step for one in checkpoints.of_any(tx, job_id)] == [20, 10]
        pushes.succeed(tx, first, commit="c" * 40, url="https://hub/me/m")
        checkpoints.expire(tx, kept_for=timedelta(0))
        assert [one.step for one in checkpoints.of_any(tx, job_id)] == [20]
    [told] = [
        event["data"]
        for event in shared.client.get(f"/jobs/{job_id}/events").json()["data"]
        if event["data"].get("kind") == "push"
    ]
    assert (told["checkpoint"], told["branch"]) == ("checkpoint-10", "step-10")
    fail_next(shared.backends)
    fail_next(shared.backends)


def test_checkpoint_that_is_damaged_goes_though_it_is_to_be_pushed(shared: Shared) -> None:
    job_id = submit(shared.client, secrets={"hf": "my-hf"}, resources={"priority": 100})
    job = claim(shared.backends)
    save(shared.backends, job, 10, FILES)
    path = f"/jobs/{job_id}/checkpoints/checkpoint-10/push"
    assert shared.client.post(path, json={"repo": "me/m"}).status_code == 202
    with shared.backends.database.transaction() as tx:
        [damaged] = checkpoints.of_any(tx, job_id)
        checkpoints.retire(tx, damaged, attempt=job.attempt)
        assert checkpoints.of_any(tx, job_id) == []
    fail_next(shared.backends)
    succeed(shared.backends, job, FILES)


@pytest.mark.parametrize("checkpoint", ["checkpoint-11", "checkpoint-011", "checkpoint-x", "x-11"])
def test_checkpoint_that_is_not_there_is_not_pushed(shared: Shared, checkpoint: str) -> None:
    job_id = finished(shared, secrets={"hf": "my-hf"})
    path = f"/jobs/{job_id}/checkpoints/{checkpoint}/push"
    answer = shared.client.post(path, json={"repo": "me/m"})
    assert (answer.status_code, answer.json()["code"]) == (404, "checkpoint_not_found")
    assert shared.client.get(f"/jobs/{job_id}").json()["pushes"] == []


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/repo"),
        ({"repo": "model"}, "/repo"),
        ({"repo": "me/m"}, "/secret"),
        ({"repo": "me/m", "secret": "unknown"}, "/secret"),
        ({"repo": "me/m", "secret": "other", "branch": "refs/pr/1"}, "/branch"),
        ({"repo": "me/m", "secret": "other", "token": "hf_x"}, "/token"),
        ({"repo": "me/m", "secret": "other", "branch": "hf_my-hf_0123456789"}, "/branch"),
        ([], ""),
    ],
)
def test_wrong_push_is_refused_at_its_field(shared: Shared, body: Any, pointer: str) -> None:
    job_id = finished(shared)
    answer = ask(shared, job_id, body)
    assert answer.status_code == 422
    assert [one["pointer"] for one in answer.json()["errors"]] == [pointer]
    assert shared.client.get(f"/jobs/{job_id}").json()["pushes"] == []


@pytest.mark.parametrize(
    ("changes", "pointer", "words"),
    [
        ({"output": {"push": {"repo": "me/m"}}}, "/secrets/hf", "workers have none of their own"),
        (
            {"output": {"push": {"repo": "me/m", "secret": "unknown"}}},
            "/output/push/secret",
            "no secret 'unknown'",
        ),
        ({"output": {"push": {"repo": "m"}}}, "/output/push/repo", "write owner/name"),
    ],
)
def test_spec_whose_push_must_fail_is_not_queued(
    shared: Shared, changes: dict[str, Any], pointer: str, words: str
) -> None:
    spec = spec_of(upload(shared.client), **changes)
    (problem,) = shared.client.post("/jobs", json=spec).json()["errors"]
    assert problem["pointer"] == pointer
    assert words in problem["message"]
    told = shared.client.post("/jobs/validate", json=spec).json()
    assert not told["is_valid"]
    assert pointer in str(told["errors"])


def test_trials_of_a_sweep_do_not_push_over_each_other(shared: Shared) -> None:
    push = {"output": {"push": {"repo": "me/m", "secret": "other"}}}
    space = {"/training/learning_rate": {"type": "float", "low": 1e-5, "high": 1e-3}}
    plan = {"spec": spec_of(upload(shared.client), **push), "space": space}
    answer = shared.client.post("/sweeps", json=plan)
    assert answer.status_code == 422
    assert [one["pointer"] for one in answer.json()["errors"]] == ["/spec/output/push"]
