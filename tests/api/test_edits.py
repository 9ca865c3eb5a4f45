"""Editing, cloning, trying again and deleting jobs over HTTP."""

from typing import Any

import httpx
import pytest

from jobs.backends import Backends
from jobs.states import State
from jobs.store import attempts
from tests.api.conftest import Shared, claim, say, spec_of, submit, succeed, upload

pytestmark = pytest.mark.slow


def edit(client: httpx.Client, job_id: str, body: Any, **headers: str) -> httpx.Response:
    return client.patch(f"/jobs/{job_id}", json=body, headers=headers)


def fail(backends: Backends, job_id: str) -> None:
    job = claim(backends)
    assert job.id == job_id
    with backends.database.transaction() as tx:
        attempts.end(tx, job_id, State.FAILED, attempt=1, reason="it broke")


def test_name_notes_labels_and_priority_are_edited_and_the_rest_stays(shared: Shared) -> None:
    client = shared.client
    job_id = submit(client, name="old", labels={"team": "a", "draft": "yes"})
    before = client.get(f"/jobs/{job_id}").json()

    change = {"name": "new", "notes": "for Friday", "labels": {"draft": None, "kind": "b"}}
    edited = edit(client, job_id, {**change, "priority": 7})

    assert edited.status_code == 200
    of_place = ("updated_at", "queue_position", "start_estimate_seconds")
    differing = {
        name: value
        for name, value in edited.json().items()
        if value != before[name] and name not in of_place
    }
    assert differing == {
        "name": "new",
        "notes": "for Friday",
        "labels": {"team": "a", "kind": "b"},
        "priority": 7,
    }
    assert edited.content == client.get(f"/jobs/{job_id}").content


def test_an_edited_job_is_found_by_its_new_labels_and_name(client: httpx.Client) -> None:
    job_id = submit(client, name="old", labels={"team": "a"})
    edit(client, job_id, {"name": "new", "labels": {"team": "b"}})

    def listed(query: str) -> list[str]:
        return [job["id"] for job in client.get(f"/jobs?{query}").json()["data"]]

    assert listed("label=team=a") == listed("name=old") == []
    assert listed("label=team=b") == listed("name=new") == [job_id]


def test_priority_moves_a_queued_job_to_the_front(client: httpx.Client, backends: Backends) -> None:
    submit(client)
    second = submit(client)

    assert edit(client, second, {"priority": 1}).json()["queue_position"] == 1
    assert claim(backends).id == second


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"state": "succeeded"}, "/state"),
        ({"name": ""}, "/name"),
        ({"notes": "n" * 10_001}, "/notes"),
        ({"priority": 101}, "/priority"),
        ({"priority": None}, "/priority"),
        ({"labels": {"a b": "c"}}, "/labels"),
        ({"labels": {f"k{n}": "v" for n in range(17)}}, "/labels"),
        ([], ""),
    ],
)
def test_a_wrong_edit_is_refused_at_its_place(shared: Shared, change: Any, pointer: str) -> None:
    job_id = submit(shared.client)

    refused = edit(shared.client, job_id, change)

    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"].startswith(pointer)


def test_if_match_refuses_an_edit_over_another_one_but_not_over_progress(
    client: httpx.Client, backends: Backends
) -> None:
    job_id = submit(client)
    seen = client.get(f"/jobs/{job_id}").headers["ETag"]
    claim(backends)  # it runs on, which is no edit

    first = edit(client, job_id, {"name": "mine"}, **{"If-Match": seen})
    second = edit(client, job_id, {"name": "theirs"}, **{"If-Match": seen})

    assert first.status_code == 200
    assert (second.status_code, second.json()["code"]) == (412, "precondition_failed")
    latest = first.headers["ETag"]
    assert edit(client, job_id, {"name": "x"}, **{"If-Match": latest}).status_code == 200
    assert edit(client, job_id, {"name": "y"}, **{"If-Match": "*"}).status_code == 200
    assert edit(client, job_id, {"name": "z"}).status_code == 200
    assert edit(client, job_id, {"name": "z"}, **{"If-Match": "garbage"}).status_code == 412


def test_a_poll_of_what_is_known_is_not_modified(client: httpx.Client, backends: Backends) -> None:
    job_id = submit(client)

    def poll(etag: str) -> httpx.Response:
        return client.get(f"/jobs/{job_id}", headers={"If-None-Match": etag})

    known = client.get(f"/jobs/{job_id}").headers["ETag"]
    assert (poll(known).status_code, poll(known).content) == (304, b"")
    assert poll(f'"other", W/{known}').status_code == 304
    claim(backends)
    assert poll(known).status_code == 200
    known = poll(known).headers["ETag"]
    edit(client, job_id, {"notes": "n"})
    assert poll(known).status_code == 200


def test_clone_takes_a_merge_patch_of_the_spec_and_names_its_parent(client: httpx.Client) -> None:
    training = {"epochs": 2, "learning_rate": 1e-4}
    parent = submit(client, name="old", training=training, labels={"a": "1", "b": "2"})
    edit(client, parent, {"priority": 3, "labels": {"b": None}})

    patch = {"name": None, "training": {"epochs": 5, "learning_rate": None}}
    answer = client.post(f"/jobs/{parent}/clone", json=patch)

    clone = answer.json()
    assert (answer.status_code, answer.headers["Location"]) == (201, f"/jobs/{clone['id']}")
    assert (clone["parent_id"], clone["state"], clone["attempt"]) == (parent, "queued", 0)
    assert (clone["name"], clone["priority"], clone["labels"]) == (None, 3, {"a": "1"})
    assert clone["spec"]["training"]["epochs"] == 5
    assert clone["spec"]["training"]["learning_rate"] == "auto"
    found = client.get(f"/jobs?parent={parent}").json()["data"]
    assert [job["id"] for job in found] == [clone["id"]]


def test_a_clone_without_a_body_is_the_same_again(client: httpx.Client) -> None:
    parent = submit(client, training={"epochs": 2})

    clone = client.post(f"/jobs/{parent}/clone").json()

    assert clone["spec"] == client.get(f"/jobs/{parent}").json()["spec"]


def test_a_clone_is_checked_as_a_job_is(shared: Shared) -> None:
    parent = submit(shared.client)

    for patch, pointer in (
        ({"training": {"epocs": 1}}, "/training/epocs"),
        ({"data": {"train": "dataset:ds_none"}}, "/data/train"),
        ([], ""),
    ):
        refused = shared.client.post(f"/jobs/{parent}/clone", json=patch)
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, pointer)


def test_retry_submits_a_failed_job_again_as_a_new_one(
    client: httpx.Client, backends: Backends
) -> None:
    parent = submit(client, name="try", training={"epochs": 2})
    fail(backends, parent)

    answer = client.post(f"/jobs/{parent}/retry")

    again, old = answer.json(), client.get(f"/jobs/{parent}").json()
    assert (answer.status_code, again["parent_id"]) == (201, parent)
    assert (again["state"], again["spec"]) == ("queued", old["spec"])
    assert old["state"] == "failed"


@pytest.mark.parametrize("state", ["queued", "running", "succeeded"])
def test_only_failed_and_cancelled_jobs_are_tried_again(
    client: httpx.Client, backends: Backends, state: str
) -> None:
    job_id = submit(client)
    if state != "queued":
        job = claim(backends)
    if state == "succeeded":
        succeed(backends, job, {"config.json": b"{}"})

    refused = client.post(f"/jobs/{job_id}/retry")

    assert (refused.status_code, refused.json()["state"]) == (409, state)


def test_clone_and_retry_take_an_idempotency_key(client: httpx.Client) -> None:
    job_id = submit(client)
    client.post(f"/jobs/{job_id}/cancel")
    for action in ("clone", "retry"):
        asked = [
            client.post(f"/jobs/{job_id}/{action}", headers={"Idempotency-Key": action})
            for _ in range(2)
        ]
        assert asked[0].content == asked[1].content
    assert len(client.get(f"/jobs?parent={job_id}").json()["data"]) == 2


def test_a_deleted_job_is_gone_with_all_that_belongs_to_it(
    client: httpx.Client, backends: Backends
) -> None:
    job_id = submit(client, labels={"a": "b"})
    child = client.post(f"/jobs/{job_id}/clone", json={"resources": {"priority": -1}}).json()["id"]
    succeed(backends, claim(backends), {"config.json": b"{}", "model.safetensors": b"weights"})
    say(backends, job_id, "hello")
    assert backends.storage.keys(f"models/{job_id}/")

    assert client.delete(f"/jobs/{job_id}").status_code == 204

    for path in ("", "/events", "/logs", "/metrics", "/model", "/model/config.json"):
        assert client.get(f"/jobs/{job_id}{path}").status_code == 404
    assert client.delete(f"/jobs/{job_id}").status_code == 404
    assert backends.storage.keys(f"models/{job_id}/") == []
    assert client.get(f"/jobs/{child}").json()["parent_id"] is None


def test_a_job_that_has_not_ended_or_is_trained_further_is_not_deleted(
    client: httpx.Client, backends: Backends
) -> None:
    base = submit(client)
    assert client.delete(f"/jobs/{base}").json()["code"] == "illegal_transition"
    succeed(backends, claim(backends), {"config.json": b"{}"})
    spec = spec_of(upload(client), model=f"job:{base}")
    user = client.post("/jobs", json=spec).json()["id"]

    refused = client.delete(f"/jobs/{base}")

    assert (refused.status_code, refused.json()["code"]) == (409, "job_in_use")
    assert refused.json()["job_id"] == user
    client.post(f"/jobs/{user}/cancel")
    assert client.delete(f"/jobs/{base}").status_code == 204
