"""Load for HTTP benches: prepared requests over kept-alive connections, and how long each took."""

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx

from benchmarks.harness import ROOT
from jobs.database import migrate
from luthier.embedded import EmbeddedPostgres, EmbeddedValkey
from luthier.embedded.ports import free_port

_START_SECONDS = 120


def request(method: str, path: str, *, port: int, body: bytes = b"") -> bytes:
    """Return the bytes of a request."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def load(
    requests: Sequence[bytes], *, port: int, num_connections: int, status: int
) -> tuple[float, list[float]]:
    """Send requests, each when a connection is free; return seconds in all, and of each.

    Every answer has to have the status.
    """
    return asyncio.run(_load(requests, port=port, num_connections=num_connections, status=status))


async def _load(
    requests: Sequence[bytes], *, port: int, num_connections: int, status: int
) -> tuple[float, list[float]]:
    left = iter(requests)
    seconds: list[float] = []

    async def send() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for one in left:
            start = time.perf_counter()
            writer.write(one)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert head.split()[1] == str(status).encode(), head
            length = head.partition(b"content-length: ")[2].split(b"\r\n")[0]
            await reader.readexactly(int(length))
            seconds.append(time.perf_counter() - start)
        writer.close()

    start = time.perf_counter()
    await asyncio.gather(*(send() for _ in range(num_connections)))
    return time.perf_counter() - start, seconds


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that a share of the values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def peak_mib(process_id: int) -> float:
    """Return the most memory that a process has had, in MiB."""
    status = Path(f"/proc/{process_id}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


@contextlib.contextmanager
def servers(*, durable: bool) -> Iterator[dict[str, str]]:
    """Run a PostgreSQL with all tables and a Valkey; give the settings that name them."""
    with tempfile.TemporaryDirectory(prefix="luthier-bench-", dir="/tmp") as folder:
        postgres = EmbeddedPostgres(Path(folder), durable=durable)
        with postgres, EmbeddedValkey(Path(folder)) as valkey:
            migrate(postgres.url)
            yield {
                "LUTHIER_HOME": f"{folder}/home",
                "LUTHIER_DATABASE_URL": postgres.url,
                "LUTHIER_REDIS_URL": valkey.url,
                "LUTHIER_AUTH": "none",
            }
        postgres.delete_data()


@contextlib.contextmanager
def service(settings: Mapping[str, str], *command: str) -> Iterator[tuple[int, int]]:
    """Run a server, by default the API of this service; give its port and process id.

    Args:
        settings: its environment, beside this one's.
        command: `python -m` with these arguments; `PORT` stands for the port.
    """
    port = free_port()
    words = [word.replace("PORT", str(port)) for word in command] or [
        "luthier", "api", "--port", str(port),
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        env={**os.environ, **settings},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"http://127.0.0.1:{port}/livez", timeout=10)
                break
            assert process.poll() is None, f"{words} ended with {process.returncode}"
            assert time.monotonic() < deadline, f"{words} did not start in time"
            time.sleep(0.1)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(30)
