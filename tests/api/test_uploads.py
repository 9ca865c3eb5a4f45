"""Data sets in parts: lost, sent again, sent twice at once, and made exactly once."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import func, update

from api.sweeping import sweep
from jobs.backends import Backends
from jobs.tables import uploads
from tests.api.conftest import CSV

pytestmark = pytest.mark.slow

CONTENT = CSV.encode()
THIRDS = [CONTENT[:200], CONTENT[200:400], CONTENT[400:]]


def begin(client: httpx.Client, content: bytes = CONTENT, **changes: Any) -> httpx.Response:
    sha256 = hashlib.sha256(content).hexdigest()
    body = {"name": "train.csv", "size_bytes": len(content), "sha256": sha256, **changes}
    return client.post("/uploads", json=body)


def put(client: httpx.Client, upload_id: str, number: int, part: bytes) -> httpx.Response:
    return client.put(f"/uploads/{upload_id}/parts/{number}", files={"data": ("part", part)})


def begun(client: httpx.Client, *parts: bytes, content: bytes = CONTENT) -> str:
    """Begin an upload, send some parts and return its id."""
    upload_id = str(begin(client, content).json()["id"])
    for number, part in enumerate(parts, start=1):
        assert put(client, upload_id, number, part).status_code == 200
    return upload_id


def stored(backends: Backends, upload_id: str) -> int:
    folder = backends.settings.home / "storage" / "uploads" / upload_id
    return len(list(folder.iterdir())) if folder.exists() else 0


def test_parts_in_any_order_make_the_data_set_and_leave_nothing(
    client: httpx.Client, backends: Backends
) -> None:
    upload_id = begin(client).json()["id"]
    for number in (3, 1, 2):
        part = put(client, upload_id, number, THIRDS[number - 1])
        sha256 = hashlib.sha256(THIRDS[number - 1]).hexdigest()
        assert part.json() == {
            "number": number, "size_bytes": len(THIRDS[number - 1]), "sha256": sha256,
        }  # fmt: skip
    made = client.post(f"/uploads/{upload_id}/complete")
    assert made.status_code == 201, made.text
    dataset = made.json()
    assert made.headers["Location"] == f"/datasets/{dataset['id']}"
    assert (dataset["num_rows"], dataset["name"], dataset["size_bytes"]) == (
        40, "train.csv", len(CONTENT),
    )  # fmt: skip
    assert dataset["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert stored(backends, upload_id) == 0
    again = client.post(f"/uploads/{upload_id}/complete")
    assert (again.status_code, again.json()) == (201, dataset)
    assert len(client.get("/datasets").json()["data"]) == 1
    upload = client.get(f"/uploads/{upload_id}").json()
    assert (upload["state"], upload["dataset_id"]) == ("completed", dataset["id"])


def test_same_file_announced_again_goes_on_with_the_parts_that_have_come(
    client: httpx.Client,
) -> None:
    upload_id = begun(client, *THIRDS[:2])
    again = begin(client)
    assert (again.status_code, again.json()["id"]) == (200, upload_id)
    assert [part["number"] for part in again.json()["parts"]] == [1, 2]
    for changes in ({"name": "other.csv"}, {"has_header": False}, {"sha256": "0" * 64}):
        other = begin(client, **changes)
        assert (other.status_code, other.json()["parts"]) == (201, []), changes
    assert begin(client, CONTENT + b"x").status_code == 201


def test_part_that_is_sent_again_takes_its_own_place(
    client: httpx.Client, backends: Backends
) -> None:
    upload_id = begun(client, b"x" * len(THIRDS[0]), *THIRDS[1:])
    assert put(client, upload_id, 1, THIRDS[0]).status_code == 200
    assert stored(backends, upload_id) == 3
    assert client.post(f"/uploads/{upload_id}/complete").status_code == 201


def test_what_is_missing_or_too_much_is_told(client: httpx.Client, backends: Backends) -> None:
    upload_id = begun(client, THIRDS[0])
    put(client, upload_id, 3, THIRDS[2])
    early = client.post(f"/uploads/{upload_id}/complete")
    assert early.status_code == 422
    assert "parts that are missing: 2" in early.json()["errors"][0]["message"]
    much = put(client, upload_id, 2, CONTENT)
    assert much.status_code == 422
    assert much.json()["errors"][0]["pointer"] == "/data"
    assert stored(backends, upload_id) == 2
    put(client, upload_id, 2, THIRDS[1])
    assert client.post(f"/uploads/{upload_id}/complete").status_code == 201


def test_file_that_changed_meanwhile_is_refused_and_begun_anew(
    client: httpx.Client, backends: Backends
) -> None:
    upload_id = begun(client, CONTENT[:-1] + b"?")
    refused = client.post(f"/uploads/{upload_id}/complete")
    assert (refused.status_code, refused.json()["code"]) == (422, "data_changed")
    assert stored(backends, upload_id) == 0
    assert client.get("/datasets").json()["data"] == []
    assert begin(client).status_code == 201


def test_rows_that_can_not_be_read_leave_the_parts_to_be_looked_at(client: httpx.Client) -> None:
    upload_id = begun(client, b"\0\1\2", content=b"\0\1\2")
    assert client.post(f"/uploads/{upload_id}/complete").status_code == 422
    assert client.get(f"/uploads/{upload_id}").json()["state"] == "pending"
    assert client.delete(f"/uploads/{upload_id}").status_code == 204
    assert client.get(f"/uploads/{upload_id}").json()["state"] == "cancelled"
    late = put(client, upload_id, 1, b"x")
    assert (late.status_code, late.json()["state"]) == (409, "cancelled")


def test_completed_by_several_at_once_it_is_one_data_set(client: httpx.Client) -> None:
    upload_id = begun(client, *THIRDS)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: client.post(f"/uploads/{upload_id}/complete"), range(4)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(client.get("/datasets").json()["data"]) == 1


def test_too_large_a_file_is_refused_before_it_is_sent(client: httpx.Client) -> None:
    refused = begin(client, size_bytes=1 << 50)
    assert (refused.status_code, refused.json()["code"]) == (413, "payload_too_large")
    assert put(client, "upload_0123", 1, b"x").status_code == 404
    assert put(client, "upload_0123", 0, b"x").status_code == 422


def test_what_is_announced_counts_as_stored(client: httpx.Client) -> None:
    client.patch("/projects/default", json={"max_storage_bytes": 1000}).raise_for_status()
    assert begin(client, size_bytes=600).status_code == 201
    assert begin(client, size_bytes=600).status_code == 200  # the same one
    refused = begin(client, size_bytes=600, name="other.csv")
    assert (refused.status_code, refused.json()["quota"]) == (429, "max_storage_bytes")
    body = {"bytes": 600, "filename": "x", "mime_type": "text/plain", "purpose": "user_data"}
    assert client.post("/v1/uploads", json=body).status_code == 429


def test_upload_of_openais_client_is_none_of_these(client: httpx.Client) -> None:
    body = {"bytes": 4, "filename": "x", "mime_type": "text/plain", "purpose": "user_data"}
    theirs = client.post("/v1/uploads", json=body).json()["id"]
    ours = begin(client).json()["id"]
    assert client.get(f"/uploads/{theirs}").status_code == 404
    assert put(client, theirs, 1, b"x").status_code == 404
    assert client.post(f"/v1/uploads/{ours}/cancel").status_code == 404


def test_upload_that_nobody_goes_on_with_expires(client: httpx.Client, backends: Backends) -> None:
    upload_id = begun(client, THIRDS[0])
    with backends.database.transaction() as tx:
        over = update(uploads).values(expires_at=func.now() - timedelta(seconds=1))
        tx.connection.execute(over)
    late = put(client, upload_id, 2, THIRDS[1])
    assert (late.status_code, late.json()["state"]) == (409, "expired")
    sweep(backends)
    assert stored(backends, upload_id) == 0
    assert begin(client).status_code == 201
