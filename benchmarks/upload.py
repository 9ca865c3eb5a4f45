"""Receiving a large file: ours over a bare Starlette streaming write of the same request.

What is compared is the receiving part: multipart taken apart, checked and written to disk. Reading
the rows and storing the file come after it, and have no counterpart.
"""

import argparse
import json
import socket
import tempfile
import time
from typing import Any

from benchmarks import harness
from benchmarks.http_load import peak_mib, service

NUM_MIB = 1024
_PIECE = b'{"text": "a row of a data set that is uploaded", "label": "b"}\n' * 16_384
_BOUNDARY = b"bench-boundary"
_MIB = 1 << 20


def run(num_runs: int) -> list[dict[str, Any]]:
    """Return the results of the bench."""
    runs = harness.pairs(lambda side, _: harness.measure_apart("upload", side), num_runs=num_runs)
    return [
        harness.result(
            "upload",
            runs,
            figure="mib_per_second",
            unit=f"MiB a second of a file of {NUM_MIB} MiB, received and written",
            is_more_better=True,
            quality=lambda measured: {
                "received_mib": measured["received_mib"],
                "peak_growth_mib": measured["peak_growth_mib"],
            },
            same=["received_mib"],
        )
    ]


def _measure(side: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="luthier-bench-", dir="/tmp") as folder:
        command = ("uvicorn", "benchmarks.bare_upload:app", "--port", "PORT", "--no-access-log")
        with service({"BENCH_FOLDER": folder}, *command) as (port, process_id):
            _send(side, port=port, num_mib=8)
            before = peak_mib(process_id)
            start = time.perf_counter()
            size = _send(side, port=port, num_mib=NUM_MIB)
            seconds = time.perf_counter() - start
            grown = peak_mib(process_id) - before
    return {
        "mib_per_second": NUM_MIB / seconds,
        "received_mib": round(size / _MIB, 2),
        "peak_growth_mib": round(grown, 2),
    }


def _send(side: str, *, port: int, num_mib: int) -> int:
    """Send a file and return how many bytes the server has kept."""
    before = (
        b"--" + _BOUNDARY + b'\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"'
        b"\r\n\r\n"
    )
    after = b"\r\n--" + _BOUNDARY + b"--\r\n"
    num_pieces = num_mib * _MIB // len(_PIECE)
    length = len(before) + num_pieces * len(_PIECE) + len(after)
    head = (
        f"POST /{side} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
        f"Content-Type: multipart/form-data; boundary={_BOUNDARY.decode()}\r\n"
        f"Content-Length: {length}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=200) as connection:
        connection.sendall(head.encode() + before)
        for _ in range(num_pieces):
            connection.sendall(_PIECE)
        connection.sendall(after)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 200"), answer
    return int(json.loads(answer.partition(b"\r\n\r\n")[2])["size_bytes"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", choices=["ours", "peer"], required=True)
    print(json.dumps(_measure(parser.parse_args().side)))
