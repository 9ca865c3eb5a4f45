"""Requests that mean harm: what others notice of them, and what they cost the service.

`flood`: one key asks 1,000 times a second where it may ask 10 times, another project's key 20
times: its p99 at rest over the same in the flood. `stalls`: how long the service is deaf while
requests that only cost are sent: the limit over the worst answer of `/livez`. `bombs`: the limit
over what the peak of the service's memory grows by, while files are sent that explode. The last
two have no peer but their limits.
"""

import argparse
import asyncio
import gzip
import http.client
import io
import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import harness
from benchmarks.http_load import peak_mib, percentile, request, servers, service
from jobs.backends import connect
from jobs.settings import Settings
from jobs.store import keys, projects

FLOOD_PER_SECOND = 1_000
FLOODER_PER_SECOND = 10  # what that key may ask
NUM_ASKED = 400
ASKED_PER_SECOND = 20
LIMIT_STALL_MS = 100
LIMIT_GROWTH_MIB = 100
NUM_STALL_ROUNDS = 5

_NUM_CONNECTIONS = 16
_LISTEN_SECONDS = 0.005  # between two questions whether the service hears
_MIB = 1 << 20
_ROWS = "text,label\n" + "".join(f"message {n},{'ab'[n % 2]}\n" for n in range(100))


def run(num_runs: int) -> list[dict[str, Any]]:
    """Return the results of the benches."""
    with servers(durable=False) as settings:
        flood = _flood_runs({**settings, "LUTHIER_AUTH": "keys"}, num_runs=num_runs)
        stalls = [_stalls(settings) for _ in range(num_runs)]
        bombs = [_bombs(settings) for _ in range(num_runs)]
    return [
        harness.result(
            "flood",
            flood,
            figure="p99_ms",
            unit=f"ms, p99 of {NUM_ASKED} pages of GET /jobs of a project while another asks "
            f"{FLOOD_PER_SECOND:,} times a second; the peer is the same at rest",
            is_more_better=False,
            quality=lambda measured: measured["answers"],
            same=["num_answered"],
        ),
        _of_limit("stalls", stalls, figure="worst_ms", limit=LIMIT_STALL_MS, unit="ms, the worst "
                  "answer of /livez while requests that only cost are sent"),
        _of_limit("bombs", bombs, figure="growth_mib", limit=LIMIT_GROWTH_MIB, unit="MiB that the "
                  "peak of the API's memory grows by while files explode"),
    ]  # fmt: skip


def _of_limit(
    name: str, runs: list[dict[str, Any]], *, figure: str, limit: float, unit: str
) -> dict[str, Any]:
    worst = max(runs, key=lambda one: float(one[figure]))
    return {
        "name": name,
        "ours": worst[figure],
        "peer": limit,
        "ratio": limit / max(float(worst[figure]), 0.01),
        "unit": f"{unit}; the worst run, and the peer is the limit",
        "quality_ours": [one["answers"] for one in runs],
        "quality_peer": None,
        "runs": runs,
        "machine": harness.machine(),
    }


def _flood_runs(settings: Mapping[str, str], *, num_runs: int) -> list[harness.Pair]:
    loud, quiet = _keys(settings)
    with service(settings) as (port, _):

        def measure(side: str, _: int) -> dict[str, Any]:
            if side == "peer":
                return _ask(quiet, port=port)
            command = ["benchmarks.attacks", "--key", loud, "--port", str(port)]
            with subprocess.Popen(
                [sys.executable, "-m", *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ) as flood:
                assert flood.stdin is not None
                assert flood.stdout is not None
                assert flood.stdout.readline().strip() == "begun"
                found = _ask(quiet, port=port)
                flood.stdin.close()
                found["answers"] |= {"flood": json.loads(flood.stdout.readline())}
            return found

        return harness.pairs(measure, num_runs=num_runs)


def _keys(settings: Mapping[str, str]) -> tuple[str, str]:
    """Return the secrets of two projects' keys."""
    values = {name.removeprefix("LUTHIER_").lower(): one for name, one in settings.items()}
    backends = connect(Settings.model_validate(values))
    found = []
    with backends.database.transaction() as tx:
        for name in ("loud", "quiet"):
            projects.create(tx, name, quotas={})
            rate = FLOODER_PER_SECOND if name == "loud" else None
            made = keys.issue(
                tx, project=name, name=name, scopes=["admin"], requests_per_second=rate
            )
            found.append(made.secret)
    backends.engine.dispose()
    loud, quiet = found
    return loud, quiet


def _ask(key: str, *, port: int) -> dict[str, Any]:
    """Ask for pages at an even pace, one at a time; return how long the slowest took."""
    seconds, answers = [], Counter[int]()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for _ in range(NUM_ASKED):
        began = time.perf_counter()
        connection.request("GET", "/jobs", headers={"Authorization": f"Bearer {key}"})
        reply = connection.getresponse()
        reply.read()
        took = time.perf_counter() - began
        answers[reply.status] += 1
        seconds.append(took)
        time.sleep(max(0.0, 1 / ASKED_PER_SECOND - took))
    connection.close()
    return {
        "p99_ms": 1000 * percentile(seconds, 0.99),
        "p50_ms": 1000 * percentile(seconds, 0.5),
        "num_answered": answers[200],
        "answers": {str(status): number for status, number in answers.items()},
    }


async def _flood(key: str, *, port: int) -> dict[str, float]:
    """Ask at an even pace until the standard input ends; return how often, and what was said."""
    head = request("GET", "/jobs", port=port).removesuffix(b"\r\n")
    asked = head + f"Authorization: Bearer {key}\r\n\r\n".encode()
    answers = Counter[str]()
    ended = asyncio.Event()
    began = time.perf_counter()
    number = 0

    async def send() -> None:
        nonlocal number
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while not ended.is_set():
            number += 1
            await asyncio.sleep(began + number / FLOOD_PER_SECOND - time.perf_counter())
            writer.write(asked)
            reply = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = reply.partition(b"content-length: ")[2].split(b"\r\n")[0]
            await reader.readexactly(int(length))
            answers[reply.split()[1].decode()] += 1
        writer.close()

    print("begun", flush=True)
    tasks = [asyncio.create_task(send()) for _ in range(_NUM_CONNECTIONS)]
    await asyncio.to_thread(sys.stdin.read)
    ended.set()
    await asyncio.gather(*tasks)
    return {**answers, "per_second": answers.total() / (time.perf_counter() - began)}


def _stalls(settings: Mapping[str, str]) -> dict[str, Any]:
    answers = Counter[str]()
    with service(settings) as (port, _), _listening(port) as heard:
        for attack in costly_requests(port).values():
            attack()  # what is made at the first request is not counted
        time.sleep(1)
        heard.clear()
        time.sleep(1)
        rest = heard.copy()
        heard.clear()
        for _ in range(NUM_STALL_ROUNDS):
            for name, attack in costly_requests(port).items():
                answers[f"{name}: {attack()}"] += 1
        found = heard.copy()
    return {
        "worst_ms": 1000 * max(found),
        "p99_ms": 1000 * percentile(found, 0.99),
        "worst_at_rest_ms": 1000 * max(rest),
        "num_asked": len(found),
        "answers": answers,
    }


@contextmanager
def _listening(port: int) -> Iterator[list[float]]:
    """Ask the service all the time whether it lives; give how long each answer took."""
    found: list[float] = []
    ended = threading.Event()

    def listen() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while not ended.wait(_LISTEN_SECONDS):
            began = time.perf_counter()
            connection.request("GET", "/livez")
            connection.getresponse().read()
            found.append(time.perf_counter() - began)
        connection.close()

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def costly_requests(port: int) -> dict[str, Callable[[], str]]:
    """Return requests that cost much to read.

    Each is sent when called, and gives the status that is answered; `cut` where nothing is, and
    `left` where nobody waits for that.
    """
    host = f"Host: 127.0.0.1:{port}\r\n"
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n'
    parts = part * 10_000 + b"--b--\r\n"
    ranges = ",".join(f"{n}-{n}" for n in range(10_000))
    deep = b"[" * 5_000_000
    headers = "X: y\r\n" * 10_000
    wide = json.dumps({"task": "x" * 9_000_000}).encode()

    def posted(path: str, type_: str, body: bytes, *, claimed: int | None = None) -> str:
        length = f"Content-Length: {claimed or len(body)}\r\n"
        head = f"POST {path} HTTP/1.1\r\n{host}Content-Type: {type_}\r\n{length}\r\n"
        return _status(port, head.encode(), body)

    def dawdled() -> str:
        head = f"POST /jobs HTTP/1.1\r\n{host}Content-Length: 1000\r\n\r\n{{".encode()
        slow = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(200)]
        for connection in slow:
            connection.sendall(head)
        for connection in slow:
            connection.close()
        return "left"

    chunk = b"10000\r\n" + b"[" * 65_536 + b"\r\n"
    endless = f"POST /jobs HTTP/1.1\r\n{host}Content-Type: application/json\r\n"
    endless += "Transfer-Encoding: chunked\r\n\r\n"
    return {
        "10,000 parts": lambda: posted("/datasets", "multipart/form-data; boundary=b", parts),
        "100 MB of JSON": lambda: posted("/jobs", "application/json", deep, claimed=100_000_000),
        "deep JSON": lambda: posted("/jobs", "application/json", deep),
        "wide JSON": lambda: posted("/jobs", "application/json", wide),
        "big header": lambda: _status(
            port, f"GET /jobs HTTP/1.1\r\n{host}X: {'a' * 200_000}\r\n\r\n".encode()
        ),
        "10,000 headers": lambda: _status(
            port, f"GET /jobs HTTP/1.1\r\n{host}{headers}\r\n".encode()
        ),
        "10,000 ranges": lambda: _status(
            port, f"GET /docs HTTP/1.1\r\n{host}Range: bytes={ranges}\r\n\r\n".encode()
        ),
        "JSON without end": lambda: _status(port, endless.encode(), chunk * 40),
        "200 that dawdle": dawdled,
    }


def _status(port: int, head: bytes, body: bytes = b"") -> str:
    """Send bytes as they are and return the status of the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        try:
            connection.sendall(head + body)
        except OSError:
            return "cut"
        try:
            return connection.recv(4096).split()[1].decode()
        except (OSError, IndexError):
            return "cut"


def _bombs(settings: Mapping[str, str]) -> dict[str, Any]:
    answers = {}
    with (
        service(settings) as (port, process_id),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300) as client,
    ):
        harmless = {"file": ("rows.csv", _ROWS)}
        client.post("/datasets", files=harmless).raise_for_status()
        before = peak_mib(process_id)
        for name, content in _exploding().items():
            reply = client.post("/datasets", files={"file": (name, content)})
            answers[f"{name}, {len(content):,} B"] = reply.status_code
        grown = peak_mib(process_id) - before
        client.post("/datasets", files=harmless).raise_for_status()
    return {"growth_mib": grown, "answers": answers}


def _exploding() -> dict[str, bytes]:
    """Return files that are small, and large once they are read."""
    cells = io.BytesIO()
    one = pa.DictionaryArray.from_arrays(pa.array([0] * 4_000, pa.int32()), ["x" * _MIB])
    pq.write_table(pa.table({"text": one}), cells, compression="zstd", store_schema=False)
    line = io.BytesIO()
    with gzip.open(line, "wb", compresslevel=9) as file:
        file.write(b"text,label\n")
        for _ in range(1_024):
            file.write(b"x" * _MIB)
        file.write(b",a\n")
    return {
        "zeros.csv.gz": gzip.compress(bytes(_MIB)) * 2_000,
        "cell.csv.gz": line.getvalue(),
        "cells.parquet": cells.getvalue(),
        "deep.json": b"[" * 100_000,
        "deep.jsonl": b'{"text": ' + b"[" * 100_000,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--key", required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    print(json.dumps(asyncio.run(_flood(options.key, port=options.port))))
