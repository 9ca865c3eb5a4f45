"""Pages of jobs: filters, order, and what they cost."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert, text

from jobs.database import make_engine
from jobs.identifiers import first_id
from jobs.states import State
from jobs.store import listing
from jobs.store.listing import Filter
from jobs.tables import job_labels, jobs
from jobs.transaction import Database
from tests.conftest import fresh_database

pytestmark = pytest.mark.slow

NUM_JOBS = 4_000
START = datetime(2026, 1, 1, tzinfo=UTC)
SINGLE_FILTERS = {
    "none": Filter("default"),
    "a common state": Filter("default", states=(State.SUCCEEDED,)),
    "a rare state": Filter("default", states=(State.CANCELLED,)),
    "several states": Filter("default", states=(State.FAILED, State.CANCELLED, State.PAUSED)),
    "task": Filter("default", task="task-1"),
    "model": Filter("default", model="hub:org/model-3"),
    "name": Filter("default", name="name-5"),
    "a common label": Filter("default", labels=frozenset({"team": "a"}.items())),
    "a rare label": Filter("default", labels=frozenset({"run": "77"}.items())),
    "parent": Filter("default", parent_id=first_id("job", START.timestamp())),
    "time": Filter(
        "default",
        created_from=START + timedelta(days=1),
        created_before=START + timedelta(days=1, hours=12),
    ),
    "old times": Filter("default", created_before=START + timedelta(hours=6)),
    "another project": Filter("none"),
}


@pytest.fixture(scope="module")
def database(servers):
    """Jobs an hour apart, the newest last."""
    with fresh_database(servers) as url:
        engine = make_engine(url)
        with engine.begin() as connection:
            connection.execute(insert(jobs), [row_of(n) for n in range(NUM_JOBS)])
            labels = [label for n in range(NUM_JOBS) for label in labels_of(n)]
            connection.execute(insert(job_labels), labels)
            connection.execute(text("ANALYZE"))
        yield Database(engine, lambda _: None, lambda _: None)
        engine.dispose()


def id_of(n):
    return first_id("job", (START + timedelta(hours=n)).timestamp())


def row_of(n):
    states = [State.SUCCEEDED] * 8 + [State.FAILED, State.QUEUED]
    return {
        "id": id_of(n),
        "project": "default",
        "parent_id": id_of(0) if n % 50 == 1 else None,
        "name": f"name-{n % 10}",
        "task": f"task-{n % 3}",
        "model": f"hub:org/model-{n % 20}",
        "spec": {},
        "dataset_ids": [],
        "labels": {label["key"]: label["value"] for label in labels_of(n)},
        "state": State.CANCELLED if n < 5 else states[n % 10],
        "max_attempts": 3,
        "created_at": START + timedelta(hours=n),
    }


def labels_of(n):
    place = {"project": "default", "job_id": id_of(n)}
    yield {**place, "key": "team", "value": "ab"[n % 2]}
    yield {**place, "key": "run", "value": str(n)}


def matches(n, wanted):
    row = row_of(n)
    at = row["created_at"]
    return (
        wanted.project == "default"
        and (not wanted.states or row["state"] in wanted.states)
        and wanted.task in (None, row["task"])
        and wanted.model in (None, row["model"])
        and wanted.name in (None, row["name"])
        and wanted.parent_id in (None, row["parent_id"])
        and wanted.labels <= row["labels"].items()
        and (wanted.created_from is None or at >= wanted.created_from)
        and (wanted.created_before is None or at < wanted.created_before)
    )


FILTERS = {
    **SINGLE_FILTERS,
    "several at once": Filter(
        "default",
        states=(State.FAILED, State.SUCCEEDED),
        task="task-1",
        labels=frozenset({"team": "b"}.items()),
        created_from=START + timedelta(days=10),
    ),
    "two labels": Filter("default", labels=frozenset({"team": "a", "run": "78"}.items())),
}


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("oldest_first", [False, True])
def test_a_walk_finds_what_fits_once_and_in_order(database, name, oldest_first):
    wanted = FILTERS[name]
    seen, after = [], None
    while True:
        with database.transaction() as tx:
            page = listing.page(tx, wanted, after=after, limit=700, oldest_first=oldest_first)
        seen += [job.id for job in page]
        if len(page) < 700:
            break
        after = seen[-1]
    expected = [id_of(n) for n in range(NUM_JOBS) if matches(n, wanted)]
    assert seen == (expected if oldest_first else expected[::-1])


@pytest.mark.parametrize("name", SINGLE_FILTERS)
@pytest.mark.parametrize("oldest_first", [False, True])
def test_a_page_reads_few_rows_however_many_there_are(database, name, oldest_first):
    """A page of 20 that reads a few dozen of 4,000 rows does so of a million."""
    query = listing.query(SINGLE_FILTERS[name], after=None, limit=20, oldest_first=oldest_first)
    compiled = query.compile(database.engine, compile_kwargs={"render_postcompile": True})
    with database.engine.connect() as connection:
        explain = f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {compiled}"
        (plan,) = connection.exec_driver_sql(explain, compiled.params).scalar_one()

    assert num_read(plan["Plan"]) <= 4 * 20 * max(1, len(SINGLE_FILTERS[name].states))


def num_read(node):
    """Return how many rows the scans of a plan have read."""
    here = 0
    if "Relation Name" in node:
        dropped = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Join Filter", 0)
        here = (node["Actual Rows"] + dropped) * node["Actual Loops"]
    return here + sum(num_read(child) for child in node.get("Plans", []))
