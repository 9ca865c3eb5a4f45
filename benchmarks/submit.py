"""`POST /jobs` a second: ours over FastAPI and SQLAlchemy that insert the same row, unchecked.

Ours parses and checks the spec, looks up the data set, inserts job and first event, tells place and
start, publishes the event and rings the bell. Both commit to a durable PostgreSQL of their own.
"""

import argparse
import json
from typing import Any

import httpx

from benchmarks import harness
from benchmarks.http_load import load, percentile, request, servers, service

NUM_CONNECTIONS = 16
NUM_REQUESTS = 1_500
NUM_WARM = 100
ROWS = "text,label\n" + "".join(f"message {n},{'ab'[n % 2]}\n" for n in range(100))


def run(num_runs: int) -> list[dict[str, Any]]:
    """Return the results of the bench."""
    runs = harness.pairs(lambda side, _: harness.measure_apart("submit", side), num_runs=num_runs)
    return [
        harness.result(
            "submit",
            runs,
            figure="per_second",
            unit="POST /jobs a second, 16 at once, with p99 beside",
            is_more_better=True,
            quality=lambda measured: {"p99_ms": measured["p99_ms"], "jobs": measured["num_jobs"]},
            same=["num_jobs"],
        )
    ]


def _measure(side: str) -> dict[str, Any]:
    with servers(durable=True) as settings:
        command = () if side == "ours" else ("uvicorn", "benchmarks.bare_insert:app", "--port",
                                             "PORT", "--no-access-log")  # fmt: skip
        with service(settings) as (port, _):
            spec = _spec(port)
        with service(settings, *command) as (port, _):
            body = json.dumps(spec).encode()
            requests = [request("POST", "/jobs", port=port, body=body)] * NUM_REQUESTS
            load(requests[:1], port=port, num_connections=1, status=201)  # its rows are read once
            load(requests[:NUM_WARM], port=port, num_connections=NUM_CONNECTIONS, status=201)
            whole, each = load(requests, port=port, num_connections=NUM_CONNECTIONS, status=201)
    return {
        "per_second": len(each) / whole,
        "p99_ms": 1000 * percentile(each, 0.99),
        "num_jobs": len(each),
    }


def _spec(port: int) -> dict[str, Any]:
    """Return a whole spec, as the service keeps it, on a data set that is there."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        dataset = client.post("/datasets", files={"file": ("train.csv", ROWS)}).json()["id"]
        given = {
            "task": "text-classification",
            "model": "hub:org/encoder",
            "data": {"train": f"dataset:{dataset}"},
            "name": "bench",
        }
        spec: dict[str, Any] = client.post("/jobs", json=given).json()["spec"]
        return spec


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", choices=["ours", "peer"], required=True)
    print(json.dumps(_measure(parser.parse_args().side)))
