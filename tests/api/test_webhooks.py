"""Webhooks over HTTP: made, changed, tested, rotated, and what was sent to them."""

import ipaddress
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import standardwebhooks

from jobs.backends import Backends
from jobs.settings import Settings
from tests.api.conftest import Shared, serve
from tests.receiver import Receiver
from tests.stored import new_job

pytestmark = pytest.mark.slow

ENDS = ["job.succeeded", "job.failed", "job.cancelled"]


@pytest.fixture
def service_settings(service_settings: Settings) -> Settings:
    loopback = (ipaddress.ip_network("127.0.0.0/8"),)
    return service_settings.model_copy(update={"webhook_networks": loopback})


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def create(client: httpx.Client, url: str, **values: Any) -> dict[str, Any]:
    response = client.post("/webhooks", json={"url": url, **values})
    assert response.status_code == 201, response.text
    return dict(response.json())


def test_secret_is_shown_once_and_stored_sealed(
    client: httpx.Client, backends: Backends, receiver: Receiver
) -> None:
    created = create(client, receiver.url, name="ends")

    secret = created.pop("secret")
    assert secret.startswith("whsec_")
    assert created["secret_hint"] == f"whsec_…{secret[-4:]}"
    assert (created["event_types"], created["enabled"]) == (ENDS, True)
    assert client.get(f"/webhooks/{created['id']}").json() == created
    assert client.get("/webhooks").json() == {"data": [created], "has_more": False}
    with backends.engine.begin() as connection:
        (row,) = connection.exec_driver_sql("SELECT webhooks::text FROM webhooks").scalars()
    assert secret.removeprefix("whsec_") not in row


def test_running_service_sends_by_itself(
    service_settings: Settings, backends: Backends, receiver: Receiver
) -> None:
    settings = service_settings.model_copy(update={"webhook_seconds": 0.05})
    with serve(settings) as url, httpx.Client(base_url=url) as client:
        secret = create(client, receiver.url, event_types=["job.queued"])["secret"]
        with backends.database.transaction() as tx:
            job = new_job(tx)
        deadline = time.monotonic() + 20
        while not receiver.received:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    (request,) = receiver.received
    assert standardwebhooks.Webhook(secret).verify(request.body, request.headers)["data"]["id"] == (
        job.id
    )


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://2130706433/",
        "https://localhost./",
        "ftp://example.org/",
        "https://a:b@1.1.1.1/",
        "https://[::ffff:127.0.0.1]/",
    ],
)
def test_url_to_nowhere_public_is_refused(shared: Shared, url: str) -> None:
    response = shared.client.post("/webhooks", json={"url": url})

    assert response.status_code == 422
    assert [error["pointer"] for error in response.json()["errors"]] == ["/url"]


def test_every_wrong_field_is_told(shared: Shared) -> None:
    body = {"url": "", "event_types": ["job.finished"], "colour": "red"}

    response = shared.client.post("/webhooks", json=body)

    assert response.status_code == 422
    pointers = {error["pointer"] for error in response.json()["errors"]}
    assert pointers == {"/url", "/event_types/0", "/colour"}


def test_parts_of_a_webhook_are_changed(client: httpx.Client, receiver: Receiver) -> None:
    created = create(client, receiver.url, name="ends")
    path = f"/webhooks/{created['id']}"

    off = client.patch(path, json={"enabled": False}).json()
    moved = client.patch(path, json={"url": receiver.url + "2", "name": None}).json()
    same = client.patch(path, json={}).json()
    refused = client.patch(path, json={"url": "http://10.0.0.1/"})

    assert (off["enabled"], off["name"], off["url"]) == (False, "ends", receiver.url)
    assert (moved["enabled"], moved["name"], moved["url"]) == (False, None, receiver.url + "2")
    assert same["url"] == moved["url"]
    assert refused.status_code == 422


def test_deleted_webhook_is_gone(client: httpx.Client, receiver: Receiver) -> None:
    path = f"/webhooks/{create(client, receiver.url)['id']}"
    assert client.post(f"{path}/test").status_code == 200

    assert client.delete(path).status_code == 204

    for method, below in [
        ("GET", ""),
        ("DELETE", ""),
        ("GET", "/deliveries"),
        ("POST", "/test"),
        ("POST", "/rotate-secret"),
        ("POST", "/deliveries/evt_1/redeliver"),
    ]:
        response = client.request(method, path + below)
        assert (response.status_code, response.json()["code"]) == (404, "webhook_not_found")


def test_test_event_is_sent_now_and_once(client: httpx.Client) -> None:
    answers = iter([200, 500])
    with Receiver(lambda _: next(answers)) as receiver:
        created = create(client, receiver.url)
        path = f"/webhooks/{created['id']}"
        good = client.post(f"{path}/test", json={"event_type": "job.failed"}).json()
        bad = client.post(f"{path}/test").json()

    assert (good["state"], good["event_type"]) == ("delivered", "job.failed")
    assert (bad["state"], bad["num_tries"]) == ("failed", 1)
    assert bad["tries"][0]["error"] == "the target answered 500"
    sent = standardwebhooks.Webhook(created["secret"]).verify(
        receiver.received[0].body, receiver.received[0].headers
    )
    assert sent["data"]["is_test"] is True


def test_deliveries_are_listed_with_their_tries_and_sent_again(client: httpx.Client) -> None:
    answers = iter([500, 200])
    with Receiver(lambda _: next(answers)) as receiver:
        path = f"/webhooks/{create(client, receiver.url)['id']}"
        failed = client.post(f"{path}/test").json()
        delivered = client.post(f"{path}/test").json()

    pages = [client.get(f"{path}/deliveries?limit=1").json()]
    pages.append(client.get(f"{path}/deliveries?after={delivered['event_id']}").json())
    only = client.get(f"{path}/deliveries?state=failed").json()
    again = client.post(f"{path}/deliveries/{failed['event_id']}/redeliver")
    unknown = client.post(f"{path}/deliveries/evt_none/redeliver")

    assert pages[0] == {"data": [delivered], "has_more": True}
    assert pages[1] == {"data": [failed], "has_more": False} == only
    assert json.loads(failed["body"])["id"] == failed["event_id"]
    assert (again.status_code, again.json()["state"]) == (202, "pending")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "delivery_not_found")


def test_rotation_gives_a_new_secret_and_both_sign(client: httpx.Client) -> None:
    with Receiver() as receiver:
        old = create(client, receiver.url)
        path = f"/webhooks/{old['id']}"
        new = client.post(f"{path}/rotate-secret").json()
        client.post(f"{path}/test")
        newest = client.post(f"{path}/rotate-secret", json={"keep_old_secret": False}).json()
        client.post(f"{path}/test")

    assert len({old["secret"], new["secret"], newest["secret"]}) == 3
    during, after = receiver.received
    for webhook in (old, new):
        standardwebhooks.Webhook(webhook["secret"]).verify(during.body, during.headers)
    standardwebhooks.Webhook(newest["secret"]).verify(after.body, after.headers)
    assert len(after.headers["webhook-signature"].split()) == 1


def test_a_project_has_a_hundred_webhooks_at_most(
    client: httpx.Client, backends: Backends, receiver: Receiver
) -> None:
    create(client, receiver.url)
    with backends.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO webhooks (id, project, url, event_types, is_enabled, secret, secret_hint) "
            "SELECT 'wh_' || n, 'default', url, event_types, is_enabled, secret, secret_hint "
            "FROM webhooks, generate_series(1, 99) AS n"
        )

    response = client.post("/webhooks", json={"url": receiver.url})

    assert (response.status_code, response.json()["code"]) == (409, "too_many_webhooks")
