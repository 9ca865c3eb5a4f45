"""1,000 readers of one busy job's live events: how late the last one has each, and what one costs.

A writer in this process appends events as a worker does; readers are sockets of another process.
Both read one clock.
"""

import argparse
import asyncio
import json
import re
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks import harness
from benchmarks.http_load import percentile, servers, service
from jobs.backends import connect
from jobs.settings import Settings
from jobs.store import events
from jobs.store.events import NewEvent
from trainer_core.events import EventType

NUM_READERS = 1_000
NUM_BATCHES = 40
EVENTS_A_BATCH = 5
SECONDS_A_BATCH = 0.5
LIMIT_SECONDS = 1.0
_ROWS = "text,label\n" + "".join(f"message {n},{'ab'[n % 2]}\n" for n in range(20))
_SENT = re.compile(rb'^id: (\d+)$|"sent":([\d.]+)', re.MULTILINE)


def run(num_runs: int) -> list[dict[str, Any]]:
    """Return the result of the bench."""
    runs = [_measure() for _ in range(num_runs)]
    best = min(runs, key=lambda one: float(one["p99_seconds"]))
    return [
        {
            "name": "stream",
            "ours": best["p99_seconds"],
            "peer": LIMIT_SECONDS,
            "ratio": LIMIT_SECONDS / float(best["p99_seconds"]),
            "unit": f"seconds from commit to each of {best['num_readers']} readers, p99; "
            "the peer is the limit",
            "quality_ours": {
                name: best[name] for name in ("num_received", "num_expected", "kib_a_reader")
            },
            "quality_peer": None,
            "runs": runs,
            "machine": harness.machine(),
        }
    ]


def _measure() -> dict[str, Any]:
    _raise_limit()  # the service inherits it
    with servers(durable=False) as variables, service(variables) as (port, process_id):
        job_id = _submit(port)
        before = _rss_kib(process_id)
        readers = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.stream", "--job", job_id, "--port", str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert readers.stdout is not None
        assert readers.stdout.readline().strip() == "ready"
        grown = _rss_kib(process_id) - before
        values = {name.removeprefix("LUTHIER_").lower(): one for name, one in variables.items()}
        _write(Settings.model_validate(values), job_id)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            client.post(f"/jobs/{job_id}/cancel").raise_for_status()
        told: dict[str, Any] = json.loads(readers.stdout.readline())
        readers.wait(30)
    return told | {"kib_a_reader": grown / NUM_READERS}


def _raise_limit() -> None:
    """Let this process and its children have as many open files as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _submit(port: int) -> str:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        dataset = client.post("/datasets", files={"file": ("train.csv", _ROWS)}).json()["id"]
        spec = {
            "task": "text-classification",
            "model": "hub:org/encoder",
            "data": {"train": f"dataset:{dataset}"},
        }
        return str(client.post("/jobs", json=spec).json()["id"])


def _write(settings: Settings, job_id: str) -> None:
    backends = connect(settings)
    pause = threading.Event()
    for number in range(NUM_BATCHES):
        data = {"message": f"line {number}", "sent": time.time()}
        with backends.database.transaction() as tx:
            events.append(tx, job_id, [NewEvent(EventType.LOG, data)] * EVENTS_A_BATCH)
        pause.wait(SECONDS_A_BATCH)
    backends.engine.dispose()


async def _read_all(job_id: str, *, port: int) -> None:
    late: list[float] = []
    ids: list[list[int]] = [[] for _ in range(NUM_READERS)]
    opened = [asyncio.Event() for _ in range(NUM_READERS)]
    places = asyncio.Semaphore(20)  # who connect at once

    async def read(number: int) -> None:
        async with places:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(
                f"GET /jobs/{job_id}/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
                "Accept: text/event-stream\r\nConnection: close\r\n\r\n".encode()
            )
            head = await reader.readuntil(b"\n\n")  # up to the first event
            assert b" 200 " in head.split(b"\r\n", 1)[0], head
            opened[number].set()
        _note(head, ids[number], [])
        while line := await reader.readline():
            _note(line, ids[number], late)
        writer.close()

    tasks = [asyncio.create_task(read(number)) for number in range(NUM_READERS)]
    await asyncio.gather(*(one.wait() for one in opened))
    print("ready", flush=True)
    await asyncio.gather(*tasks)
    whole = list(range(1, NUM_BATCHES * EVENTS_A_BATCH + 3))  # submitted, what was said, cancelled
    assert all(seen == whole for seen in ids), [seen for seen in ids if seen != whole][:1]
    told = {
        "p99_seconds": percentile(late, 0.99),
        "p50_seconds": percentile(late, 0.5),
        "max_seconds": max(late),
        "num_received": len(late),
        "num_expected": NUM_READERS * NUM_BATCHES * EVENTS_A_BATCH,
        "num_readers": NUM_READERS,
    }
    print(json.dumps(told), flush=True)


def _note(line: bytes, ids: list[int], late: list[float]) -> None:
    for number, sent in _SENT.findall(line):
        if number:
            ids.append(int(number))
        else:
            late.append(time.time() - float(sent))


def _rss_kib(process_id: int) -> int:
    status = Path(f"/proc/{process_id}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--job", required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    _raise_limit()
    asyncio.run(_read_all(given.job, port=given.port))
