"""Every route and method, asked without a key and with another project's."""

import json
import re
from collections.abc import Iterator
from ipaddress import ip_network

import httpx
import pytest

from jobs.backends import Backends
from jobs.settings import Settings
from tests.api.access import Door
from tests.api.conftest import serve
from tests.api.statements import statements_of_requests
from tests.api.victim import OWN_NAMES, PUBLIC, SHARED, Operation, Victim, operations_of

pytestmark = pytest.mark.slow

_ADMISSION = re.compile(r"api_keys.sha256|last_used_at=")
"""A key is read again each two seconds, and that it is used is noted once a minute."""


@pytest.fixture
def door(service_settings: Settings, backends: Backends) -> Iterator[Door]:
    changes = {"auth": "keys", "webhook_networks": (ip_network("127.0.0.0/8"),)}
    with serve(service_settings.model_copy(update=changes), marks_requests=True) as url:
        yield Door(url, backends)


@pytest.fixture
def operations(service_settings: Settings) -> list[Operation]:
    return operations_of(service_settings)


def test_without_a_key_nothing_but_health_answers(door: Door, operations: list[Operation]) -> None:
    unknown = "luthier_" + "x" * 43
    given = ({}, {"Authorization": f"Bearer {unknown}"}, {"Authorization": f"Basic {unknown}"})
    with door.client() as client, httpx.Client(base_url=door.url, timeout=30) as stranger:
        victim = Victim(door, client)
        for operation in operations:
            (asked, *_) = victim.requests(operation)
            bodies = set()
            for headers in given:
                stranger.headers = httpx.Headers(headers)
                answer = asked.ask(stranger)
                assert (answer.status_code == 401) == (asked.name not in PUBLIC), asked
                if asked.name not in PUBLIC and asked.method != "HEAD":
                    bodies.add(told(answer))
                    assert code_of(answer, operation) in ("unauthorized", "invalid_api_key")
                    assert answer.headers["WWW-Authenticate"] == "Bearer"
                    assert "401" in operation.statuses, asked
            assert len(bodies) <= 1, "no key, a wrong key and an unknown one are told apart"


def test_stranger_is_answered_by_the_same_queries_as_if_there_were_nothing(
    door: Door, operations: list[Operation]
) -> None:
    refused, num_compared = set(), 0
    with (
        door.client("mine") as client,
        door.client("other", requests_per_second=1e5) as stranger,
        statements_of_requests() as statements,
    ):
        victim = Victim(door, client)
        before = everything(client, victim)
        stranger.get("/jobs")  # its bucket is drawn from
        for operation in operations:
            for asked in victim.requests(operation):
                statements.clear()
                theirs, queries = asked.ask(stranger), [*statements]
                assert theirs.status_code < 500, asked
                assert str(theirs.status_code) in operation.statuses, (asked, theirs.text)
                if asked.name in PUBLIC | SHARED | OWN_NAMES:
                    continue
                statements.clear()
                nobodys = victim.nobodys(asked)
                if nobodys == asked:  # a list, or something new
                    assert "canary" not in theirs.text, asked
                    assert not [one for one in victim.ids.values() if one in theirs.text], asked
                    continue
                missing = nobodys.ask(stranger)
                assert theirs.status_code == missing.status_code, (asked, theirs.text)
                assert victim.of_nobody(told(theirs)) == told(missing), asked
                assert counted(queries) == counted(statements), asked
                num_compared += bool(counted(queries))
                if "{" in operation.path:
                    assert theirs.status_code in (403, 404), (asked, theirs.text)
                    refused.add(asked.name)
        assert everything(client, victim) == before
        upload = f"/v1/uploads/{victim.ids['upload_id']}"
        assert client.post(f"{upload}/cancel").status_code == 200, "it was not open any more"
        own = client.get(f"/uploads/{victim.ids['own_upload_id']}").json()
        assert (own["state"], own["parts"]) == ("pending", [])
    with_ids = {operation.name for operation in operations if "{" in operation.path}
    assert refused == with_ids - SHARED - OWN_NAMES
    assert num_compared > len(refused), "statements were not seen"


def told(answer: httpx.Response) -> str:
    """Return a body without what differs from request to request."""
    if not answer.content:
        return ""
    body = answer.json()
    body.pop("request_id", None)
    return json.dumps(body)


def code_of(answer: httpx.Response, operation: Operation) -> object:
    body = answer.json()
    return body["error"]["code"] if operation.is_openais else body["code"]


def counted(statements: list[str]) -> list[str]:
    return [one for one in statements if not _ADMISSION.search(one)]


def everything(client: httpx.Client, victim: Victim) -> list[str]:
    """Return what the project's owner sees of what a stranger may want to change."""
    ids = victim.ids
    paths = (
        f"/jobs/{ids['job_id']}", f"/datasets/{ids['dataset_id']}", f"/sweeps/{ids['sweep_id']}",
        f"/keys/{ids['key_id']}", f"/webhooks/{ids['webhook_id']}", "/models/canary-model",
        "/secrets", f"/v1/files/{ids['file_id']}", f"/v1/models/{ids['model']}",
        f"/jobs/{ids['job_id']}/model/canary.json", f"/jobs/{ids['job_id']}/checkpoints",
        f"/v1/fine_tuning/checkpoints/{ids['checkpoint']}/permissions",
        f"/webhooks/{ids['webhook_id']}/deliveries",
    )  # fmt: skip
    answers = [client.get(path) for path in paths]
    assert {answer.status_code for answer in answers} == {200}
    return [answer.text for answer in answers]
