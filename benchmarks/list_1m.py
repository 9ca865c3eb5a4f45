"""A page of `GET /jobs` among 1,000,000 jobs and among 1,000, by each filter; the worst counts.

Both are databases of one server, each with an API of its own, and are asked in turns. The queue is
as long in both, since a page tells places in it.
"""

import statistics
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import Connection, NullPool, create_engine, text

from benchmarks import harness
from benchmarks.http_load import load, request, servers, service
from jobs.identifiers import first_id

NUM_SMALL = 1_000
NUM_LARGE = 1_000_000
_NUM_REQUESTS = 20
_NUM_WARM = 5
_NUM_BUCKETS = 1_000  # moments at which jobs were made, an hour apart
_HOUR = 3600

_INSERT = text("""
INSERT INTO jobs (id, project, parent_id, name, task, model, spec, dataset_ids, labels, state,
    max_attempts, started_at, finished_at, created_at, queued_at, updated_at)
SELECT prefix || lpad(n::text, 16, '0'), 'default',
    CASE WHEN n % 50 = 2 THEN first_value(prefix || lpad(n::text, 16, '0')) OVER (ORDER BY n) END,
    'job ' || n, (ARRAY['text-classification', 'causal-lm'])[n % 2 + 1],
    'hub:org/model-' || n % 10, :spec, ARRAY['ds_0'], '{"team": "a"}',
    CASE WHEN n % 1000 < 100 AND n <= :num_small THEN 'queued'
        ELSE (ARRAY['succeeded', 'failed', 'cancelled'])[n % 3 + 1] END,
    3, at, at, at, at, at
FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n
JOIN buckets ON bucket = n % :num_buckets
""")
_LABELS = text("""
INSERT INTO job_labels (project, key, value, job_id)
SELECT 'default', 'team', (ARRAY['a', 'b', 'c', 'd'])[right(id, 4)::int % 4 + 1], id FROM jobs
ON CONFLICT DO NOTHING
""")
_INDEXES = text("""
SELECT indexname, indexdef FROM pg_indexes
WHERE tablename IN ('jobs', 'job_labels') AND indexname NOT LIKE 'pk_%'
""")
_SMALL = "small"  # the database of few jobs
_SPEC = '{"task": "causal-lm", "resources": {"gpus": "auto"}}'


def run(num_runs: int) -> list[dict[str, Any]]:
    """Return the result of the bench; the jobs are made once, however many runs are asked for."""
    with servers(durable=False) as large:
        url = large["LUTHIER_DATABASE_URL"]
        small = {**large, "LUTHIER_DATABASE_URL": f"{url.rpartition('/')[0]}/{_SMALL}"}
        engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as connection:
            _fill(connection, first=1, last=NUM_SMALL)
            queries = _queries(connection)
        _copy(url, name=_SMALL)
        with engine.connect() as connection:
            _fill(connection, first=NUM_SMALL + 1, last=NUM_LARGE)
        with service(small) as (small_port, _), service(large) as (large_port, _):
            ports = {"small_ms": small_port, "large_ms": large_port}
            runs = [_measure(queries, ports=ports) for _ in range(num_runs)]
    ratios = {
        name: statistics.median(run[name]["small_ms"] / run[name]["large_ms"] for run in runs)
        for name in queries
    }
    worst = min(ratios, key=lambda name: ratios[name])
    return [
        {
            "name": "list_1m",
            "ours": statistics.median(run[worst]["large_ms"] for run in runs),
            "peer": statistics.median(run[worst]["small_ms"] for run in runs),
            "ratio": ratios[worst],
            "unit": f"ms a page of 20 of {NUM_LARGE:,} jobs over {NUM_SMALL:,}, worst: {worst}",
            "quality_ours": ratios,
            "quality_peer": None,
            "runs": runs,
            "machine": harness.machine(),
        }
    ]


def _copy(url: str, *, name: str) -> None:
    """Copy a database that nobody is connected to, by way of another one."""
    server, _, original = url.rpartition("/")
    engine = create_engine(f"{server}/postgres", isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text(f'CREATE DATABASE {name} TEMPLATE "{original}"'))


def _fill(connection: Connection, *, first: int, last: int) -> None:
    """Make jobs of so many numbers."""
    start = time.time() - _NUM_BUCKETS * _HOUR
    connection.execute(
        text("CREATE TEMPORARY TABLE buckets (bucket int, prefix text, at timestamptz)")
    )
    moments = [(number, start + number * _HOUR) for number in range(_NUM_BUCKETS)]
    connection.execute(
        text("INSERT INTO buckets VALUES (:bucket, :prefix, :at)"),
        [
            {
                "bucket": number,
                "prefix": first_id("job", at)[:14],  # the part that holds the time
                "at": datetime.fromtimestamp(at, UTC),
            }
            for number, at in moments
        ],
    )
    indexes = connection.execute(_INDEXES).all()
    connection.execute(text("SET maintenance_work_mem = '512MB'"))
    for name, _ in indexes:
        connection.execute(text(f'DROP INDEX "{name}"'))
    connection.execute(
        _INSERT,
        {
            "first": first,
            "last": last,
            "spec": _SPEC,
            "num_small": NUM_SMALL,
            "num_buckets": _NUM_BUCKETS,
        },
    )
    connection.execute(_LABELS)
    for _, definition in indexes:  # all at once: ten times quicker
        connection.execute(text(definition))
    connection.execute(text("DROP TABLE buckets"))
    connection.execute(text("ANALYZE"))


def _queries(connection: Connection) -> dict[str, str]:
    """Return the query of each filter; of the cursor, from the middle of the list."""
    parent = connection.execute(text("SELECT max(parent_id) FROM jobs")).scalar_one()
    middle = connection.execute(
        text("SELECT id, created_at FROM jobs ORDER BY id OFFSET 500 LIMIT 1")
    ).one()
    filters = {
        "none": {},
        "state": {"state": "failed"},
        "task": {"task": "causal-lm"},
        "label": {"label": "team=b"},
        "model": {"model": "hub:org/model-3"},
        "time": {"created_before": middle.created_at.isoformat()},
        "parent": {"parent": parent},
        "cursor": {"after": middle.id},
        "state, task and label": {"state": "failed", "task": "causal-lm", "label": "team=b"},
    }
    return {name: f"/jobs?{urlencode(query)}" for name, query in filters.items()}


def _measure(queries: dict[str, str], *, ports: dict[str, int]) -> dict[str, dict[str, float]]:
    """Return the median of milliseconds of a page, by filter and size, asked in turns."""
    found = {}
    for name, path in queries.items():
        each: dict[str, list[float]] = {size: [] for size in ports}
        for number in range(_NUM_WARM + _NUM_REQUESTS):
            for size, port in ports.items():
                _, took = load(
                    [request("GET", path, port=port)], port=port, num_connections=1, status=200
                )
                each[size] += took if number >= _NUM_WARM else []
        found[name] = {size: 1000 * statistics.median(took) for size, took in each.items()}
    return found
