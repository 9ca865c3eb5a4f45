"""What must be true of a service after any fault, asked of its database, disk and processes."""

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from sqlalchemy import Connection, Engine, Row, text

from jobs.states import FINAL, LEASED, TRANSITIONS, State
from tests.drills.parts import outputs
from tests.drills.site import FOLDERS, Site
from trainer_core.run_directory import MANIFEST, file_sha256

_LEASED = ", ".join(f"'{state}'" for state in sorted(LEASED))
_FINAL = ", ".join(f"'{state}'" for state in sorted(FINAL))
_BROKEN = {
    "events of {0} have a gap: {1} kept, last number {2}": """
        SELECT j.id, count(e.id), j.last_event_id FROM jobs j LEFT JOIN events e ON e.job_id = j.id
        GROUP BY j.id HAVING count(e.id) <> j.last_event_id OR max(e.id) <> j.last_event_id""",
    "{0} ended {1} times": """
        SELECT job_id, count(*) FROM events
        WHERE type = 'state' AND data->>'state' IN ('succeeded', 'failed', 'cancelled')
        GROUP BY job_id HAVING count(*) > 1""",
    "{0} is {1}, and its last state event says {2}": """
        SELECT j.id, j.state, e.data->>'state' FROM jobs j JOIN LATERAL (
            SELECT data FROM events WHERE job_id = j.id AND type = 'state' ORDER BY id DESC LIMIT 1
        ) e ON true WHERE e.data->>'state' <> j.state""",
    "{0} is in attempt {1} and has {2} of them, of {3} allowed": """
        SELECT j.id, j.attempt, count(a.number), j.max_attempts FROM jobs j
        LEFT JOIN attempts a ON a.job_id = j.id GROUP BY j.id
        HAVING count(a.number) <> j.attempt OR j.attempt > j.max_attempts""",
    "attempt {1} of {0} is open, and the job is {2} in attempt {3}": f"""
        SELECT j.id, a.number, j.state, j.attempt FROM attempts a JOIN jobs j ON j.id = a.job_id
        WHERE a.finished_at IS NULL AND NOT (
            a.number = j.attempt AND j.state IN ({_LEASED}))""",
    "{0} is {1}, with worker {2} and lease {3}": f"""
        SELECT id, state, worker, lease_until FROM jobs
        WHERE (state IN ({_LEASED}))
            <> (worker IS NOT NULL AND lease_until IS NOT NULL)""",
    "{0} is {1} and was finished at {2}": f"""
        SELECT id, state, finished_at FROM jobs
        WHERE (state IN ({_FINAL}))
            <> (finished_at IS NOT NULL)""",
    "{0} succeeded without a manifest": """
        SELECT id FROM jobs j WHERE state = 'succeeded' AND NOT EXISTS (
            SELECT 1 FROM artifacts a WHERE a.job_id = j.id AND a.path = 'manifest.json')""",
    "{0} failed and has {1} files": """
        SELECT j.id, count(*) FROM jobs j JOIN artifacts a ON a.job_id = j.id
        WHERE j.state = 'failed' GROUP BY j.id""",
}  # complaint -> rows that give rise to it

_CHECKPOINT_FILES = """
    SELECT c.key || '/' || (f->>'path') AS key, (f->>'size_bytes')::bigint AS size_bytes
    FROM checkpoints c, jsonb_array_elements(c.files) f WHERE c.state = 'stored'"""
_LEAVING_FILES = """
    SELECT c.key || '/' || (f->>'path') FROM checkpoints c, jsonb_array_elements(c.files) f
    WHERE c.state <> 'stored'"""

_HOME = {
    "cache", "hub", "lock", "logs", "postgres", "postgres.json",
    "runs", "secret.key", "storage", "uploads", "valkey", "valkey.json", "worker.alive",
}  # fmt: skip


def check(site: Site) -> None:
    """Raise AssertionError with everything that is not as it must be."""
    found = [
        *in_database(site.backends.engine), *_in_storage(site), *_in_models(site),
        *_out_of_place(site), *_left_over(site),
    ]  # fmt: skip
    assert not found, "; ".join(found)


def in_database(engine: Engine) -> Iterator[str]:
    """Yield what is wrong with the rows of a service, and with the moves that its events tell."""
    with engine.connect() as connection:
        for complaint, query in _BROKEN.items():
            for row in connection.execute(text(query)):
                yield complaint.format(*row)
        yield from _illegal_moves(connection)


def _illegal_moves(connection: Connection) -> Iterator[str]:
    query = "SELECT job_id, data->>'state' FROM events WHERE type = 'state' ORDER BY job_id, id"
    before: dict[str, State] = {}
    for job_id, name in connection.execute(text(query)):
        state = State(name)
        earlier = before.get(job_id)
        if earlier is None and state is not State.QUEUED:
            yield f"{job_id} began as {state}"
        # A cancellation that kept the model may be asked for again without it: told, no move.
        is_told_again = state is earlier is State.CANCELLING
        if earlier is not None and state not in TRANSITIONS[earlier] and not is_told_again:
            yield f"{job_id} went from {earlier} to {state}"
        before[job_id] = state


def _in_storage(site: Site) -> Iterator[str]:
    root = site.settings.home / "storage"
    with site.backends.engine.connect() as connection:
        rows = connection.execute(text("SELECT key, size_bytes FROM artifacts"))
        known = {row.key: row.size_bytes for row in rows}
        known |= {row.key: row.size_bytes for row in connection.execute(text(_CHECKPOINT_FILES))}
        leaving = set(connection.execute(text(_LEAVING_FILES)).scalars())
        active = set(
            connection.execute(text("SELECT id FROM jobs WHERE finished_at IS NULL")).scalars()
        )
    for key, size in known.items():
        if not (root / key).is_file() or (root / key).stat().st_size != size:
            yield f"{key} is named by a row and not stored whole"
    for path in (root / "jobs").rglob("*"):
        key = path.relative_to(root).as_posix()
        is_working = path.relative_to(root).parts[1] in active
        if path.is_file() and key not in {*known, *leaving} and not is_working:
            yield f"{key} is stored and no row names it"


def _in_models(site: Site) -> Iterator[str]:
    """Yield what models are not as their rows and manifests say; each is read through once."""
    query = "SELECT job_id, path, key, size_bytes, sha256 FROM artifacts ORDER BY job_id"
    with site.backends.engine.connect() as connection:
        rows = connection.execute(text(query)).all()
    root = site.settings.home / "storage"
    for job_id, files in groupby(rows, key=lambda row: str(row.job_id)):
        if job_id not in site.compared:
            site.compared.add(job_id)
            yield from _unlike(root, job_id, list(files))


def _unlike(root: Path, job_id: str, rows: list[Row]) -> Iterator[str]:
    for row in rows:
        path = root / row.key
        if path.is_file() and file_sha256(path) != row.sha256:
            yield f"{row.key} is stored with another SHA-256 than its row has"
    manifest = next((root / row.key for row in rows if row.path == MANIFEST), None)
    if manifest is None or not manifest.is_file():
        return  # told elsewhere
    files = json.loads(manifest.read_text("utf-8"))["files"]
    sealed = {(file["path"], file["size_bytes"], file["sha256"]) for file in files}
    shown = {(row.path, row.size_bytes, row.sha256) for row in rows if row.path != MANIFEST}
    if sealed != shown:
        yield f"{job_id} shows other files than its manifest: {sealed ^ shown}"


def _out_of_place(site: Site) -> Iterator[str]:
    home = site.settings.home
    for folder, known in ((home, _HOME), (home.parent, FOLDERS), (site.working, set())):
        for name in sorted({path.name for path in folder.iterdir()} - known):
            yield f"{folder / name} is none of the service's places"


def _left_over(site: Site) -> Iterator[str]:
    home = site.settings.home
    query = "SELECT id FROM jobs WHERE finished_at IS NOT NULL"
    with site.backends.engine.connect() as connection:
        ended = {home / "runs" / job_id for job_id in connection.execute(text(query)).scalars()}
    for pid, output in outputs():
        for folder in ended.intersection(output.parents):
            yield f"process {pid} still works on {folder.name}"
