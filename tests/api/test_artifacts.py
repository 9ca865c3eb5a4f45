"""Downloading what a job made: one tar, single files, ranges, and no way out."""

import base64
import contextlib
import hashlib
import http.client
import io
import tarfile

import httpx
import pytest

from jobs.backends import Backends
from jobs.store import artifacts
from tests.api.conftest import Shared, claim, save, submit, succeed

pytestmark = pytest.mark.slow

WEIGHTS = bytes(range(256)) * 40_000  # 10 MB: more than one chunk of the storage
FILES = {
    "model.safetensors": WEIGHTS,
    "config.json": b'{"model_type": "bert"}',
    "empty.txt": b"",
    "1_Pooling/config.json": b"{}",
    "deep/" * 30 + "naïve ☃.json": b"long name",
}


@pytest.fixture(scope="module")
def job_id(shared: Shared) -> str:
    """A job with a model, on the shared service."""
    job_id = submit(shared.client, resources={"priority": 100})
    job = claim(shared.backends)
    assert job.id == job_id
    succeed(shared.backends, job, FILES)
    return job_id


def test_model_is_one_tar_of_exactly_the_files(shared: Shared, job_id: str) -> None:
    response = shared.client.get(f"/jobs/{job_id}/model")

    assert response.headers["Content-Type"] == "application/x-tar"
    assert int(response.headers["Content-Length"]) == len(response.content)
    assert f'filename="{job_id}.tar"' in response.headers["Content-Disposition"]
    with tarfile.open(fileobj=io.BytesIO(response.content)) as archive:
        members = archive.getmembers()
        found = {m.name: archive.extractfile(m).read() for m in members}  # type: ignore[union-attr]
    assert found == {f"model/{path}": content for path, content in FILES.items()}
    assert [m.name for m in members] == sorted(f"model/{path}" for path in FILES)
    assert all(m.isreg() and m.mtime == members[0].mtime for m in members)


def test_tar_is_the_same_each_time(shared: Shared, job_id: str) -> None:
    first, second = (shared.client.get(f"/jobs/{job_id}/model").content for _ in range(2))

    assert hashlib.sha256(first).digest() == hashlib.sha256(second).digest()


@pytest.mark.parametrize("path", list(FILES))
def test_file_comes_with_its_digests(shared: Shared, job_id: str, path: str) -> None:
    response = shared.client.get(f"/jobs/{job_id}/model/{path}")

    digest = hashlib.sha256(FILES[path])
    assert response.content == FILES[path]
    assert response.headers["ETag"] == f'"{digest.hexdigest()}"'
    coded = base64.b64encode(digest.digest()).decode()
    assert response.headers["Repr-Digest"] == f"sha-256=:{coded}:"
    assert response.headers["Accept-Ranges"] == "bytes"
    assert response.headers["Content-Disposition"].startswith("attachment;")
    assert int(response.headers["Content-Length"]) == len(FILES[path])


def test_head_tells_the_same_without_the_bytes(shared: Shared, job_id: str) -> None:
    url = f"/jobs/{job_id}/model/model.safetensors"
    asked, got = shared.client.head(url), shared.client.get(url)

    assert (asked.status_code, asked.content) == (200, b"")
    for name in ("ETag", "Content-Length", "Repr-Digest", "Content-Type", "Accept-Ranges"):
        assert asked.headers[name] == got.headers[name]


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=5-9", 5, 10),
        ("bytes=9000000-", 9_000_000, len(WEIGHTS)),
        ("bytes=-7", len(WEIGHTS) - 7, len(WEIGHTS)),
        ("bytes=0-99999999999", 0, len(WEIGHTS)),
        ("bytes=-99999999999", 0, len(WEIGHTS)),
    ],
)
def test_range_is_served(shared: Shared, job_id: str, wanted: str, start: int, end: int) -> None:
    response = shared.client.get(
        f"/jobs/{job_id}/model/model.safetensors", headers={"Range": wanted}
    )

    assert response.status_code == 206
    assert response.content == WEIGHTS[start:end]
    assert response.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(WEIGHTS)}"
    assert int(response.headers["Content-Length"]) == end - start


@pytest.mark.parametrize(
    "wanted", [f"bytes={len(WEIGHTS)}-", "bytes=999999999-1000000000", "bytes=-0"]
)
def test_range_after_the_end_is_416(shared: Shared, job_id: str, wanted: str) -> None:
    response = shared.client.get(
        f"/jobs/{job_id}/model/model.safetensors", headers={"Range": wanted}
    )

    assert response.status_code == 416
    assert response.headers["Content-Range"] == f"bytes */{len(WEIGHTS)}"
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["code"] == "range_not_satisfiable"


@pytest.mark.parametrize(
    "wanted",
    ["bytes=5-1", "bytes=-", "bytes=a-b", "lines=1-2", "bytes=0-1,3-4", "bytes=" + "0-," * 5000],
)
def test_range_that_is_none_or_several_is_ignored(shared: Shared, job_id: str, wanted: str) -> None:
    response = shared.client.get(f"/jobs/{job_id}/model/config.json", headers={"Range": wanted})

    assert (response.status_code, response.content) == (200, FILES["config.json"])


def test_download_in_two_ranges_is_the_file(shared: Shared, job_id: str) -> None:
    url = f"/jobs/{job_id}/model/model.safetensors"
    first = shared.client.get(url, headers={"Range": "bytes=0-4999999"})
    condition = {"Range": "bytes=5000000-", "If-Range": first.headers["ETag"]}
    second = shared.client.get(url, headers=condition)
    changed = shared.client.get(url, headers={**condition, "If-Range": '"other"'})

    assert first.content + second.content == WEIGHTS
    assert (changed.status_code, len(changed.content)) == (200, len(WEIGHTS))


@pytest.mark.parametrize("known", ["{etag}", "W/{etag}", '"other", {etag}', "*"])
def test_known_file_is_not_sent_again(shared: Shared, job_id: str, known: str) -> None:
    url = f"/jobs/{job_id}/model/config.json"
    etag = shared.client.head(url).headers["ETag"]

    response = shared.client.get(url, headers={"If-None-Match": known.format(etag=etag)})

    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["ETag"] == etag
    assert "X-Request-ID" in response.headers


def test_other_etag_gets_the_file(shared: Shared, job_id: str) -> None:
    response = shared.client.get(
        f"/jobs/{job_id}/model/config.json", headers={"If-None-Match": '"x"'}
    )

    assert response.content == FILES["config.json"]


ATTACKS = [
    "../../../etc/passwd",
    "..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/canary.txt",
    "%252e%252e%252fcanary.txt",
    "..%5c..%5ccanary.txt",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "config.json/../../canary.txt",
    "config.json%00",
    "config.json%00.txt",
    "./config.json",
    "config.json/",
    "CONFIG.JSON",
    "file:%2f%2f%2fetc%2fpasswd",
    "x" * 5000,
    "%ff%fe",
    "",
]


@pytest.mark.parametrize("path", ATTACKS)
def test_path_that_is_no_file_of_the_job_is_not_found(
    shared: Shared, job_id: str, path: str
) -> None:
    (shared.home / "canary.txt").write_text("the canary sings")
    address = httpx.URL(shared.url)
    # Unlike httpx this client sends a path as it is.
    connection = http.client.HTTPConnection(address.host, address.port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", f"/jobs/{job_id}/model/{path}")
        response = connection.getresponse()
        content = response.read()

    assert response.status == 404
    assert b"root:" not in content
    assert b"the canary sings" not in content


def test_model_of_an_unfinished_job_is_a_conflict(client: httpx.Client) -> None:
    job_id = submit(client)

    answers = [client.get(f"/jobs/{job_id}/model{rest}") for rest in ("", "/config.json")]

    assert [answer.status_code for answer in answers] == [409, 409]
    assert answers[0].json()["code"] == "model_not_ready"
    assert answers[0].json()["state"] == "queued"


def test_file_that_the_storage_lost_is_503_and_never_short(
    client: httpx.Client, backends: Backends
) -> None:
    job_id = submit(client)
    succeed(backends, claim(backends), {"config.json": b"{}", "a.txt": b"kept"})
    with backends.database.transaction() as tx:
        backends.storage.delete(artifacts.get(tx, job_id, "config.json").key)

    assert client.get(f"/jobs/{job_id}/model/config.json").status_code == 503
    with pytest.raises(httpx.RemoteProtocolError):
        client.get(f"/jobs/{job_id}/model")


SAVED = {"config.json": b"{}", "model.safetensors": b"weights", "optimizer.pt": b"x"}


@pytest.fixture(scope="module")
def saved(shared: Shared) -> str:
    """The path of a checkpoint of a running job, on the shared service."""
    job_id = submit(shared.client, resources={"priority": 100})
    job = claim(shared.backends)
    assert job.id == job_id
    save(shared.backends, job, 40, SAVED)
    return f"/jobs/{job_id}/checkpoints/checkpoint-40"


def test_checkpoint_tells_the_files_of_its_model_and_not_what_it_goes_on_from(
    shared: Shared, saved: str
) -> None:
    found = shared.client.get(saved).json()

    assert (found["id"], found["step"], found["is_best"]) == ("checkpoint-40", 40, True)
    assert [one["path"] for one in found["artifacts"]] == ["config.json", "model.safetensors"]
    assert found["artifacts"][1]["sha256"] == hashlib.sha256(b"weights").hexdigest()


def test_model_of_a_checkpoint_is_a_tar_and_its_files(shared: Shared, saved: str) -> None:
    response = shared.client.get(f"{saved}/model")
    part = shared.client.get(f"{saved}/model/model.safetensors", headers={"Range": "bytes=2-4"})
    head = shared.client.head(f"{saved}/model/model.safetensors")

    assert "checkpoint-40.tar" in response.headers["Content-Disposition"]
    with tarfile.open(fileobj=io.BytesIO(response.content)) as archive:
        assert archive.getnames() == ["model/config.json", "model/model.safetensors"]
    assert (part.status_code, part.content) == (206, b"igh")
    assert head.headers["Content-Length"] == "7"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/model/optimizer.pt", "file_not_found"),
        ("/model/../../../etc/passwd", "not_found"),
        ("/model/%2e%2e%2fconfig.json", "file_not_found"),
    ],
)
def test_nothing_else_of_a_checkpoint_can_be_had(
    shared: Shared, saved: str, path: str, code: str
) -> None:
    answer = shared.client.get(saved + path)

    assert (answer.status_code, answer.json()["code"]) == (404, code)


@pytest.mark.parametrize("checkpoint", ["checkpoint-41", "checkpoint-040", "checkpoint-x", "x-40"])
def test_checkpoint_that_is_not_there_is_told(shared: Shared, saved: str, checkpoint: str) -> None:
    for path in ("", "/model", "/model/config.json"):
        answer = shared.client.get(saved.replace("checkpoint-40", checkpoint) + path)

        assert (answer.status_code, answer.json()["code"]) == (404, "checkpoint_not_found")
