"""Keys: who gets in, what they may do there, and what they never see."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from sqlalchemy import func, text, update

from api.keyring import FRESH_SECONDS
from jobs.backends import Backends
from jobs.settings import Settings
from jobs.tables import api_keys
from tests.api.access import Door
from tests.api.conftest import say, serve, submit

pytestmark = pytest.mark.slow


@pytest.fixture
def door(service_settings: Settings, backends: Backends) -> Iterator[Door]:
    with serve(service_settings.model_copy(update={"auth": "keys"})) as url:
        yield Door(url, backends)


@pytest.mark.parametrize(
    ("scope", "method", "path", "status"),
    [
        ("read", "GET", "/jobs", 200),
        ("read", "POST", "/jobs", 403),
        ("read", "GET", "/keys", 403),
        ("submit", "GET", "/jobs", 200),
        ("submit", "POST", "/jobs", 422),
        ("submit", "POST", "/models", 403),
        ("submit", "GET", "/audit", 403),
        ("admin", "POST", "/jobs", 422),
        ("admin", "GET", "/audit", 200),
        ("admin", "GET", "/projects", 403),
    ],
)
def test_scope_decides_and_includes_what_is_below(
    door: Door, scope: str, method: str, path: str, status: int
) -> None:
    with door.client("team", scopes=[scope]) as client:
        answer = client.request(method, path, **({"json": {}} if method == "POST" else {}))

    assert answer.status_code == status
    if status == 403:
        assert answer.json()["code"] == "forbidden"


def test_operators_make_projects_and_the_keys_of_all(door: Door) -> None:
    with door.client() as operator:
        made = operator.post("/projects", json={"name": "vision", "max_queued_jobs": 5})
        again = operator.post("/projects", json={"name": "vision"})
        key = operator.post(
            "/keys", json={"name": "boss", "scopes": ["admin"], "project": "vision"}
        ).json()
        unknown = operator.post(
            "/keys", json={"name": "boss", "scopes": ["admin"], "project": "nowhere"}
        )
        changed = operator.patch("/projects/vision", json={"max_running_jobs": 2})
        listed = operator.get("/projects").json()["data"]

    assert (made.status_code, made.headers["Location"]) == (201, "/projects/vision")
    assert (again.status_code, unknown.status_code) == (409, 404)
    assert changed.json()["max_queued_jobs"] == 5
    assert changed.json()["max_running_jobs"] == 2
    assert changed.json()["use"]["queued_jobs"] == 0
    assert [project["name"] for project in listed] == ["default", "vision"]
    with door.client_of(key["secret"]) as boss:
        assert boss.get("/projects/vision").json()["max_running_jobs"] == 2
        assert boss.get("/projects/default").status_code == 404
        assert [one["name"] for one in boss.get("/keys").json()["data"]] == ["boss"]
        assert boss.get("/keys?project=default").status_code == 403
        assert boss.get("/audit?project=default").status_code == 403
        for more in ({"project": "default"}, {"requests_per_second": 1e6}):
            wanted = {"name": "x", "scopes": ["admin"], **more}
            assert boss.post("/keys", json=wanted).status_code == 403


def test_secret_is_told_once_and_kept_nowhere(door: Door) -> None:
    with door.client() as client:
        made = client.post("/keys", json={"name": "ci", "scopes": ["submit"]}).json()
        seen = client.get(f"/keys/{made['id']}")

    assert made["secret"].startswith(made["prefix"])
    assert "secret" not in seen.json()
    assert made["secret"] not in dump(door.backends)
    assert made["prefix"] in dump(door.backends)


def dump(backends: Backends) -> str:
    """Return every row of every table as text."""
    with backends.engine.connect() as connection:
        tables = connection.execute(
            text("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        ).scalars()
        return "\n".join(
            str(row)
            for table in list(tables)
            for row in connection.execute(text(f"SELECT t::text FROM {table} t"))  # noqa: S608
        )


def test_revoked_key_is_dead_within_seconds(door: Door) -> None:
    with door.client() as admin:
        made = admin.post("/keys", json={"name": "ci", "scopes": ["read"]}).json()
        with door.client_of(made["secret"]) as client:
            assert client.get("/jobs").status_code == 200
            assert admin.delete(f"/keys/{made['id']}").status_code == 204
            revoked_at = datetime.now(UTC)
            while client.get("/jobs").status_code == 200:
                assert datetime.now(UTC) - revoked_at < timedelta(seconds=FRESH_SECONDS + 3)
                time.sleep(0.1)  # a key that asks without a pause is limited: 429
            assert client.get("/jobs").status_code == 401
        assert admin.get(f"/keys/{made['id']}").json()["revoked_at"]
        assert admin.post(f"/keys/{made['id']}/rotate").status_code == 404


@pytest.mark.parametrize(
    ("path", "accept"),
    [
        ("events", "text/event-stream"),
        ("logs", "text/event-stream"),
        ("logs?follow=true", "text/plain"),
    ],
)
def test_open_stream_of_a_revoked_key_is_told_nothing_more_and_ends(
    door: Door, path: str, accept: str
) -> None:
    with door.client() as admin:
        job_id = submit(admin)
        made = admin.post("/keys", json={"name": "ci", "scopes": ["read"]}).json()
        with (
            door.client_of(made["secret"]) as client,
            client.stream("GET", f"/jobs/{job_id}/{path}", headers={"Accept": accept}) as stream,
        ):
            lines = stream.iter_lines()
            say(door.backends, job_id, "before")
            assert any("before" in line for line in lines)
            assert admin.delete(f"/keys/{made['id']}").status_code == 204
            time.sleep(FRESH_SECONDS + 0.1)
            say(door.backends, job_id, "after")
            assert not [line for line in lines if "after" in line]
            assert client.get(f"/jobs/{job_id}/{path}").status_code == 401
        assert admin.get(f"/jobs/{job_id}").json()["state"] == "queued"


def test_rotated_key_works_on_for_the_overlap_and_its_successor_at_once(door: Door) -> None:
    with door.client() as admin:
        old = admin.post("/keys", json={"name": "ci", "scopes": ["submit"]}).json()
        new = admin.post(f"/keys/{old['id']}/rotate", json={"overlap_seconds": 60}).json()
        ended = admin.post(f"/keys/{new['id']}/rotate", json={"overlap_seconds": 0}).json()
        seen = admin.get(f"/keys/{old['id']}").json()

    assert (new["name"], new["scopes"]) == ("ci", ["submit"])
    left = datetime.fromisoformat(seen["expires_at"]) - datetime.now(UTC)
    assert timedelta(seconds=30) < left <= timedelta(seconds=60)
    for secret, status in ((old["secret"], 200), (new["secret"], 401), (ended["secret"], 200)):
        with door.client_of(secret) as client:
            assert client.get("/jobs").status_code == status


def test_successor_of_a_key_that_ends_lives_as_long(door: Door) -> None:
    ends_at = datetime.now(UTC) + timedelta(days=10)
    with door.client() as admin:
        wanted = {"name": "ci", "scopes": ["read"], "expires_at": ends_at.isoformat()}
        old = admin.post("/keys", json=wanted).json()
        new = admin.post(f"/keys/{old['id']}/rotate").json()
        late = admin.post("/keys", json={**wanted, "expires_at": "2020-01-01T00:00:00Z"})

    life = datetime.fromisoformat(new["expires_at"]) - datetime.fromisoformat(new["created_at"])
    assert abs(life - timedelta(days=10)) < timedelta(minutes=1)
    assert late.json()["errors"][0]["pointer"] == "/expires_at"


def test_last_use_is_noted_once_a_minute(door: Door) -> None:
    with door.client() as client:
        key_id = client.get("/keys").json()["data"][0]["id"]
        first = client.get(f"/keys/{key_id}").json()["last_used_at"]
        move_use(door, key_id, seconds=30)
        soon = used_after_a_new_look(door, client, key_id)
        move_use(door, key_id, seconds=61)
        later = used_after_a_new_look(door, client, key_id)

    assert first is not None
    assert soon < first
    assert later > first


def move_use(door: Door, key_id: str, *, seconds: int) -> None:
    moved = update(api_keys).where(api_keys.c.id == key_id)
    used_at = func.now() - timedelta(seconds=seconds)
    with door.backends.database.transaction() as tx:
        tx.connection.execute(moved.values(last_used_at=used_at))


def used_after_a_new_look(door: Door, client: httpx.Client, key_id: str) -> str:
    """Return the last use of a key once another process has let it in."""
    settings = door.backends.settings.model_copy(update={"auth": "keys", "port": 0})
    with serve(settings) as url:
        headers = {"Authorization": client.headers["Authorization"]}
        return str(httpx.get(f"{url}/keys/{key_id}", headers=headers).json()["last_used_at"])


def test_every_change_is_in_the_audit_log_with_who_did_it(door: Door) -> None:
    with door.client("team") as client:
        key = client.post("/keys", json={"name": "ci", "scopes": ["submit"]}).json()
        with door.client_of(key["secret"]) as ci:
            job_id = submit(ci)
            for action in ("pause", "resume", "cancel"):
                assert ci.post(f"/jobs/{job_id}/{action}").status_code == 200
            dataset_id = ci.get("/datasets").json()["data"][0]["id"]
            assert ci.delete(f"/datasets/{dataset_id}").status_code == 204
            assert ci.post(f"/jobs/{job_id}/resume").status_code == 409  # not done, so not noted
        client.post("/models", json={"name": "m", "hub": "org/x"})
        client.put("/secrets/hf", json={"value": "0123456789"})
        client.delete("/secrets/hf")
        client.delete(f"/keys/{key['id']}")
        log = client.get("/audit").json()["data"]
        page = client.get("/audit?limit=2").json()
        rest = client.get("/audit", params={"after": page["data"][1]["id"]}).json()

    assert [(entry["actor"], entry["action"], entry["target"]) for entry in reversed(log)] == [
        ("team-admin", "key.create", key["id"]),
        ("ci", "dataset.create", dataset_id),
        ("ci", "job.create", job_id),
        ("ci", "job.pause", job_id),
        ("ci", "job.resume", job_id),
        ("ci", "job.cancel", job_id),
        ("ci", "dataset.delete", dataset_id),
        ("team-admin", "model.create", "m"),
        ("team-admin", "secret.set", "hf"),
        ("team-admin", "secret.delete", "hf"),
        ("team-admin", "key.revoke", key["id"]),
    ]
    by_ci = {entry["key_id"] for entry in log if entry["actor"] == "ci"}
    assert by_ci == {key["id"]} != {log[0]["key_id"]}
    assert page["has_more"]
    assert page["data"] + rest["data"] == log
    assert key["secret"] not in json.dumps(log)
    assert "0123456789" not in json.dumps(log)


def test_host_that_is_no_address_of_the_service_has_to_be_set(
    service_settings: Settings, backends: Backends
) -> None:
    changes = {"auth": "keys", "allowed_hosts": ("luthier.example",)}
    with serve(service_settings.model_copy(update=changes)) as url:
        headers = {"Authorization": f"Bearer {Door(url, backends).secret()}"}
        statuses = {
            host: httpx.get(f"{url}/jobs", headers={**headers, "Host": host}).status_code
            for host in ("luthier.example", "10.0.0.7:8750", "localhost", "evil.example")
        }

    assert statuses == {
        "luthier.example": 200, "10.0.0.7:8750": 200, "localhost": 200, "evil.example": 421,
    }  # fmt: skip


def test_whoever_reaches_an_open_service_is_its_operator_whatever_they_send(
    client: httpx.Client,
) -> None:
    headers = {"Authorization": "Bearer sk-anything"}

    assert client.get("/projects", headers=headers).status_code == 200
    assert client.get("/audit").json()["data"] == []
    client.post("/projects", json={"name": "vision"})
    (entry,) = client.get("/audit").json()["data"]
    assert (entry["actor"], entry["key_id"]) == ("anyone", None)
