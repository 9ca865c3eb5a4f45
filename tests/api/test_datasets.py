"""Uploads over HTTP."""

import gzip
import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from api.uploads import shown_name
from jobs.settings import Settings
from tests.api.conftest import CSV, Shared, serve, spec_of, submit, upload

pytestmark = pytest.mark.slow


def test_uploaded_file_is_described(shared: Shared) -> None:
    response = shared.client.post("/datasets", files={"file": ("train.csv", CSV)})

    dataset = response.json()
    assert response.status_code == 201
    assert response.headers["Location"] == f"/datasets/{dataset['id']}"
    assert (dataset["name"], dataset["format"], dataset["encoding"]) == (
        "train.csv",
        "csv",
        "utf-8",
    )
    assert (dataset["num_rows"], dataset["num_bad_rows"], dataset["bad_rows"]) == (40, 0, [])
    assert dataset["columns"] == [
        {"name": "text", "type": "string"},
        {"name": "label", "type": "string"},
    ]
    assert dataset["sha256"] == hashlib.sha256(CSV.encode()).hexdigest()
    assert dataset["size_bytes"] == len(CSV)
    assert shared.client.get(f"/datasets/{dataset['id']}").json() == dataset


def test_preview_shows_the_first_rows(shared: Shared) -> None:
    preview = shared.client.get(f"/datasets/{upload(shared.client)}/preview").json()

    assert [column["name"] for column in preview["columns"]] == ["text", "label"]
    assert preview["rows"][0] == {"text": "message 0", "label": "a"}
    assert len(preview["rows"]) == 20


def test_file_without_a_header_is_read_so(shared: Shared) -> None:
    response = shared.client.post(
        "/datasets?has_header=false", files={"file": ("rows.csv", "a,1\nb,2\nc,3\n")}
    )

    assert (response.json()["num_rows"], response.json()["has_header"]) == (3, False)


def test_compressed_file_is_read(shared: Shared) -> None:
    files = {"file": ("train.csv.gz", gzip.compress(CSV.encode()))}

    dataset = shared.client.post("/datasets", files=files).json()

    assert (dataset["compression"], dataset["num_rows"]) == ("gzip", 40)


def test_file_with_bad_rows_is_kept_and_says_where(shared: Shared) -> None:
    lines = ['{"text": "fine"}', '{"text": broken}', '{"text": "fine"}']

    dataset = shared.client.post(
        "/datasets", files={"file": ("rows.jsonl", "\n".join(lines))}
    ).json()

    assert (dataset["num_rows"], dataset["num_bad_rows"]) == (2, 1)
    (bad,) = dataset["bad_rows"]
    assert (bad["file"], bad["line"]) == ("rows.jsonl", 2)


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"", "empty_file"), (b" \n\n ", "empty_file"), (b"\x89PNG\r\n\x1a\n" * 20, "unknown_format")],
)
def test_file_without_rows_is_refused_and_nothing_kept(
    client: httpx.Client, tmp_path: Path, content: bytes, code: str
) -> None:
    response = client.post("/datasets", files={"file": ("rows.csv", content)})

    assert (response.status_code, response.json()["code"]) == (422, code)
    assert client.get("/datasets").json()["data"] == []
    assert _files(tmp_path) == []


@pytest.mark.parametrize(
    "row",
    [
        '{"text": "a\\u0000b"}',
        '{"text": "\\ud800"}',
        '{"text": "\\ud83d\\ude00 ☃"}',
        '{"n": 1e999}',
    ],
)
def test_file_with_odd_values_never_breaks_the_service(shared: Shared, row: str) -> None:
    content = "\n".join([row, '{"text": "fine"}'])

    response = shared.client.post("/datasets", files={"file": ("rows.jsonl", content)})

    assert response.status_code in (201, 422), response.text
    if response.status_code == 201:
        assert shared.client.get(f"/datasets/{response.json()['id']}/preview").status_code == 200


def test_datasets_are_listed_newest_first(client: httpx.Client) -> None:
    ids = [upload(client, name=f"{number}.csv") for number in range(3)]

    first = client.get("/datasets?limit=2").json()
    rest = client.get(f"/datasets?after={ids[1]}").json()

    assert [dataset["id"] for dataset in first["data"]] == [ids[2], ids[1]]
    assert first["has_more"] is True
    assert [dataset["id"] for dataset in rest["data"]] == [ids[0]]
    assert rest["has_more"] is False


def test_deleted_dataset_is_gone_with_its_file(client: httpx.Client, tmp_path: Path) -> None:
    dataset = upload(client)
    assert len(_files(tmp_path)) == 1

    response = client.delete(f"/datasets/{dataset}")

    assert (response.status_code, response.content) == (204, b"")
    assert client.get(f"/datasets/{dataset}").status_code == 404
    assert client.delete(f"/datasets/{dataset}").status_code == 404
    assert _files(tmp_path) == []


def test_dataset_that_a_job_needs_is_kept_until_the_job_has_ended(client: httpx.Client) -> None:
    job_id = submit(client)
    dataset = client.get(f"/jobs/{job_id}").json()["spec"]["data"]["train"].removeprefix("dataset:")

    refused = client.delete(f"/datasets/{dataset}")
    client.post(f"/jobs/{job_id}/cancel")

    assert (refused.status_code, refused.json()["code"]) == (409, "dataset_in_use")
    assert refused.json()["job_id"] == job_id
    assert client.delete(f"/datasets/{dataset}").status_code == 204


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("train.csv", "train.csv"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\x\\train.csv", "train.csv"),
        ("/", "upload"),
        ("..", "upload"),
        ("a\x00b\x1b[31m\u202ec.csv", "ab[31mc.csv"),
        ("naïve ☃.csv", "naïve ☃.csv"),
        ("x" * 300 + ".csv", "x" * 251 + ".csv"),
    ],
)
def test_file_name_is_shown_without_folders_and_control_characters(given: str, shown: str) -> None:
    assert shown_name(given) == shown


def test_hostile_file_name_only_is_shown(client: httpx.Client, tmp_path: Path) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="../../../n\xc3\xa4me.csv"'
        b"\r\n\r\n" + CSV.encode() + b"\r\n--b--\r\n"
    )

    response = _send(client, body)

    assert response.json()["name"] == "näme.csv"
    (kept,) = _files(tmp_path)
    assert kept.name == response.json()["id"]


def _send(client: httpx.Client, body: bytes | Iterator[bytes]) -> httpx.Response:
    return client.post(
        "/datasets", content=body, headers={"Content-Type": "multipart/form-data; boundary=b"}
    )


_HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.csv"\r\n\r\n'


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "cut off"),
        (b"nonsense", 400, "multipart"),
        (_HEAD + b"text,label\n1,2", 400, "cut off"),
        (b"--b--\r\n", 422, "is required"),
        (
            b'--b\r\nContent-Disposition: form-data; name="data"; filename="x"\r\n\r\nx\r\n--b--',
            422,
            "'data'",
        ),
        (b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--b--\r\n', 422, "name"),
        (_HEAD + b"x\r\n" + _HEAD + b"x\r\n--b--\r\n", 422, "several"),
        (b"--b\r\n" + b"X: y\r\n" * 1000 + b"\r\nx\r\n--b--\r\n", 400, "header"),
        (b"--b\r\nX: " + b"y" * 50_000 + b"\r\n\r\nx\r\n--b--\r\n", 400, "eader"),
        (b"--b\r\n\r\nx\r\n--b--\r\n", 422, "file"),
    ],
)
def test_body_that_is_no_upload_is_told_what_was_expected(
    client: httpx.Client, body: bytes, status: int, message: str
) -> None:
    response = _send(client, body)

    assert response.status_code == status, response.text
    assert message in response.json()["detail"]
    assert client.get("/datasets").json()["data"] == []


@pytest.mark.parametrize("media_type", ["application/json", "multipart/form-data", ""])
def test_upload_of_another_type_is_refused(shared: Shared, media_type: str) -> None:
    response = shared.client.post("/datasets", content=b"x", headers={"Content-Type": media_type})

    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")


def test_unknown_parameter_is_refused(shared: Shared) -> None:
    response = shared.client.post("/datasets?header=false", files={"file": ("x.csv", CSV)})

    assert (response.status_code, response.json()["param"]) == (422, "header")


def test_too_large_upload_is_refused_at_once(service_settings: Settings, tmp_path: Path) -> None:
    limit = 1 << 20
    settings = service_settings.model_copy(update={"max_upload_bytes": limit})
    with serve(settings) as url, httpx.Client(base_url=url) as client:
        fitting = CSV + "x,a\n" * ((limit - len(CSV)) // 4)
        assert len(upload(client, fitting)) > 0

        told = _refused_before_the_end(url, length=10 << 30)
        untold = _refused_before_the_end(url, length=None)
        slightly = client.post("/datasets", files={"file": ("x.csv", fitting + "12345")})

    assert told.startswith(b"HTTP/1.1 413")
    assert untold.startswith(b"HTTP/1.1 413")
    assert slightly.status_code == 413
    assert slightly.json()["max_bytes"] == limit
    assert list((tmp_path / "home" / "uploads").iterdir()) == []


def _refused_before_the_end(url: str, *, length: int | None) -> bytes:
    """Send an upload that never ends and return the answer; it must come nevertheless."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port or 0), timeout=10) as connection:
        size = f"Content-Length: {length}" if length else "Transfer-Encoding: chunked"
        connection.sendall(
            f"POST /datasets HTTP/1.1\r\nHost: {address.netloc.decode()}\r\n"
            f"Content-Type: multipart/form-data; boundary=b\r\n{size}\r\n\r\n".encode()
        )
        if length is None:
            for chunk in (_HEAD, *[b"x" * 100_000] * 12):
                connection.sendall(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        return connection.recv(1000)


def test_upload_is_never_whole_in_memory(client: httpx.Client) -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    peak = 0
    is_done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not is_done.is_set():
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    row = b"a text of some length that fills the line well,label\n" * 20_000

    def body() -> Iterator[bytes]:
        yield _HEAD + b"text,label\n"
        for _ in range(80):
            yield row
        yield b"\r\n--b--\r\n"

    response = client.post(
        "/datasets",
        content=body(),
        headers={"Content-Type": "multipart/form-data; boundary=b"},
        timeout=120,
    )
    is_done.set()
    watcher.join()

    assert response.json()["num_rows"] == 1_600_000
    assert response.json()["size_bytes"] > 80_000_000
    assert peak - before < 60_000_000


def test_uploads_of_a_killed_process_are_cleared_when_stale(
    service_settings: Settings, tmp_path: Path
) -> None:
    import os

    folder = tmp_path / "home" / "uploads"
    folder.mkdir(parents=True)
    (folder / "old").write_bytes(b"x")
    os.utime(folder / "old", (0, 0))
    (folder / "new").write_bytes(b"x")

    with serve(service_settings):
        kept = [path.name for path in folder.iterdir()]

    assert kept == ["new"]


def test_client_that_goes_away_leaves_nothing(shared: Shared) -> None:
    address = httpx.URL(shared.url)
    with socket.create_connection((address.host, address.port or 0)) as connection:
        connection.sendall(
            f"POST /datasets HTTP/1.1\r\nHost: {address.netloc.decode()}\r\n"
            "Content-Length: 9999\r\nContent-Type: multipart/form-data; boundary=b\r\n\r\n".encode()
            + _HEAD
        )
        time.sleep(0.3)
    folder = shared.home / "uploads"
    deadline = time.monotonic() + 5
    while list(folder.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)

    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("dataset", ["ds_0123456789", "..%2f..%2fetc", "%00", "x" * 99])
def test_unknown_dataset_is_not_found(shared: Shared, dataset: str) -> None:
    answers = [shared.client.get(f"/datasets/{dataset}{rest}") for rest in ("", "/preview")]
    answers.append(shared.client.delete(f"/datasets/{dataset}"))

    assert [answer.status_code for answer in answers] == [404, 404, 404]


def test_job_reads_the_dataset_as_it_was_uploaded(client: httpx.Client) -> None:
    content = "\n".join(f"{'ab'[n % 2]};message {n}" for n in range(40))
    response = client.post("/datasets?has_header=false", files={"file": ("x.csv", content)})
    columns = [column["name"] for column in response.json()["columns"]]
    data = {
        "train": f"dataset:{response.json()['id']}",
        "columns": {"label": columns[0], "text": columns[1]},
    }

    assert client.post("/jobs", json=spec_of("", data=data)).status_code == 201


def _files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
