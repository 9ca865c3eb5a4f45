"""Requests that mean harm: paths that lead out, bodies that explode, clients that dawdle."""

import bz2
import gzip
import http.client
import io
import itertools
import lzma
import socket
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from api import serving
from benchmarks.attacks import costly_requests
from tests.api.conftest import Shared, claim, spec_of, submit, succeed

pytestmark = pytest.mark.slow

CANARY = b"canary-5f0c"
SEGMENTS = ["..", "%2e%2e", "%2E%2e", "%252e%252e", "..%00", "..\\", "%5c..", "..%5c", ".%2e"]
SLASHES = ["/", "%2f", "%2F", "%252f", "\\", "%5c", "//"]
ENDS = ["canary.txt", "config.json/../../canary.txt", "canary.txt%00.json", "etc/passwd"]
OTHERS = [
    "/etc/passwd", "//etc/passwd", "%2fetc%2fpasswd", "file:///etc/passwd", "C:%5cwin.ini",
    "~/.ssh/id_rsa", "%00", "config.json%00", "a" * 5_000, "/".join("a" * 500), ".", "./", "%2e/",
    "config.json/", "CONFIG.JSON", "config.json%20", "%c0%ae%c0%ae/canary.txt", "%uff0e%uff0e/x",
    "..;/canary.txt", "config.json?/../../canary.txt", "con", "\u202e".encode().hex(),
]  # fmt: skip


def paths() -> Iterator[str]:
    for segment, slash, end in itertools.product(SEGMENTS, SLASHES, ENDS):
        yield slash.join([segment] * 6 + [end])
    yield from OTHERS


def test_no_path_leads_out_of_a_model(shared: Shared) -> None:
    (shared.home.parent / "canary.txt").write_bytes(CANARY)
    (shared.home / "canary.txt").write_bytes(CANARY)
    job_id = submit(shared.client, resources={"priority": 100})
    succeed(shared.backends, claim(shared.backends), {"config.json": b"{}"})
    address = httpx.URL(shared.url)
    connection = http.client.HTTPConnection(address.host, address.port or 0, timeout=20)
    tried = [path for path in paths() if path.isascii() and " " not in path]
    assert len(tried) >= 200

    for path in tried:
        connection.request("GET", f"/jobs/{job_id}/model/{path}")
        reply = connection.getresponse()
        content = reply.read()
        is_file = path.startswith("config.json?")
        assert reply.status in ((200,) if is_file else (400, 404, 422)), path
        assert CANARY not in content
        assert b"root:" not in content
    connection.close()


@pytest.mark.parametrize(
    "reference",
    [
        "/etc/passwd", "file:///etc/passwd", "dataset:../../etc/passwd", "dataset:ds_../x",
        "hub:../../etc", "hub:org/name/../../x", "simplecache::file:///etc/passwd",
        "zip://x.csv::file:///etc/passwd", "s3://bucket/key", "https://evil.example/rows.csv",
        "http://169.254.169.254/latest", "json", "./rows.csv", "~/rows.csv", "\\\\host\\share",
        "dataset:ds_0000000000/../x", "hub:org/name:../../x", "hub:org/name@../../x", "",
        "dataset:", "hub:", "gs://b/k", "ftp://h/f", "data:text/csv,a",
    ],
)  # fmt: skip
def test_no_reference_to_rows_is_a_path_or_an_address(shared: Shared, reference: str) -> None:
    spec = spec_of("ds_0000000000")
    spec["data"]["train"] = reference

    refused = shared.client.post("/jobs", json=spec)

    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "/data/train"


def test_rows_that_name_files_are_rows_and_no_files(shared: Shared, tmp_path: Path) -> None:
    (tmp_path / "canary.txt").write_bytes(CANARY)
    row = f'{{"file_name": "{tmp_path}/canary.txt", "text": "file://{tmp_path}/canary.txt"}}'
    files = {"file": ("metadata.jsonl", f"{row}\n" * 20)}

    uploaded = shared.client.post("/datasets", files=files).json()

    preview = shared.client.get(f"/datasets/{uploaded['id']}/preview").content
    assert CANARY not in preview


def test_a_file_that_explodes_is_refused_and_the_service_goes_on(
    shared: Shared, tmp_path: Path
) -> None:
    zeros = gzip.compress(bytes(1 << 20)) * 2_000  # 1000 : 1
    cell = tmp_path / "cell.parquet"
    table = pa.table({"text": ["x" * (1 << 20)] * 4})
    pq.write_table(table, cell, compression="zstd", use_dictionary=True)
    whole = cell.read_bytes()
    bombs = {
        "zeros.csv.gz": zeros,
        "damaged.parquet": whole[:100] + b"\xff" * 200 + whole[300:],
        "short.parquet": b"PAR1" + whole[-200:],
        "deep.json": b"[" * 100_000,
        "rows.tar": b"x" * 257 + b"ustar\x0000" + b"x" * 512,
    }
    for name, content in bombs.items():
        reply = shared.client.post("/datasets", files={"file": (name, content)}, timeout=120)
        assert reply.status_code in (413, 422), (name, reply.text[:300])
    assert shared.client.get("/readyz").status_code == 200


def archives() -> Iterator[tuple[str, bytes]]:
    """Yield archives whose members lie outside, are links or devices, come twice, or explode."""
    members = {
        "../../canary.csv": tarfile.REGTYPE,
        "/tmp/canary.csv": tarfile.REGTYPE,
        "symlink": tarfile.SYMTYPE,
        "hardlink": tarfile.LNKTYPE,
        "device": tarfile.CHRTYPE,
        "pipe": tarfile.FIFOTYPE,
    }
    packers = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress,
               ".zst": zstandard.compress}  # fmt: skip
    for (name, kind), (end, pack) in itertools.product(members.items(), packers.items()):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            member.size = len(CANARY) if kind == tarfile.REGTYPE else 0
            for _ in range(2):  # the same name twice
                archive.addfile(member, io.BytesIO(CANARY))
        yield f"rows.tar{end}", pack(packed.getvalue())
    for name in ("../../canary.csv", "/tmp/canary.csv", "bomb.csv", "rows.csv/../../canary.csv"):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as zipped:
            zipped.writestr(name, CANARY * (1_000_000 if name == "bomb.csv" else 1))
        yield "rows.zip", packed.getvalue()


def test_no_archive_is_unpacked(shared: Shared) -> None:
    def files() -> set[Path]:
        return {path for path in shared.home.parent.rglob("*") if path.is_file()}

    before, sent = files(), list(archives())
    assert len(sent) >= 30
    for (name, content), named in itertools.product(sent, ("rows.csv", "")):
        reply = shared.client.post("/datasets", files={"file": (named or name, content)})
        assert reply.status_code in (413, 422), (name, reply.text[:300])
    made = {path for path in files() - before if "logs" not in path.parts}
    assert not made
    assert not Path("/tmp/canary.csv").exists()


def test_what_only_costs_is_refused_soon(shared: Shared) -> None:
    for what, send in costly_requests(httpx.URL(shared.url).port or 0).items():
        status = send()
        is_answered = what == "10,000 ranges"  # all of the page, once
        assert status in ("cut", "left") or status[0] == ("2" if is_answered else "4"), what
    assert shared.client.get("/livez").status_code == 200


def test_ten_thousand_ranges_are_one_file(shared: Shared) -> None:
    job_id = submit(shared.client, resources={"priority": 100})
    succeed(shared.backends, claim(shared.backends), {"config.json": b"{}" * 50})
    ranges = ",".join(f"{n}-{n}" for n in range(10_000))
    path = f"/jobs/{job_id}/model/config.json"

    reply = shared.client.get(path, headers={"Range": f"bytes={ranges}"})

    assert reply.status_code in (200, 400, 431)
    if reply.status_code == 200:
        assert reply.content == b"{}" * 50


def test_a_head_that_does_not_end_ends_the_connection(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_HEAD_SECONDS", 0.5)
    address = httpx.URL(shared.url)
    with socket.create_connection((address.host, address.port or 0), timeout=10) as slow:
        slow.sendall(b"GET /livez HTTP/1.1\r\nHost: local")
        assert slow.recv(4096).startswith(b"HTTP/1.1 400")
    with socket.create_connection((address.host, address.port or 0), timeout=10) as kept:
        for _ in range(2):  # one that is in time stays open past the time-out
            kept.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert kept.recv(4096).startswith(b"HTTP/1.1 200")
            time.sleep(0.7)


def test_clients_that_dawdle_keep_nobody_waiting(shared: Shared) -> None:
    address = httpx.URL(shared.url)
    dawdling = []
    for n in range(200):
        connection = socket.create_connection((address.host, address.port or 0), timeout=5)
        head = b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(head + (b"Content-Length: 1000\r\n\r\n{" if n % 2 else b""))
        dawdling.append(connection)
    try:
        started = time.monotonic()
        for _ in range(20):
            assert shared.client.get("/jobs?limit=1").status_code == 200
        assert time.monotonic() - started < 20
    finally:
        for connection in dawdling:
            connection.close()
    assert threading.active_count() < 200
