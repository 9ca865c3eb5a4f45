"""Submitting, listing, reading and cancelling jobs over HTTP."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from jobs.backends import Backends
from jobs.states import State
from jobs.store import attempts, checkpoints
from jobs.store.attempts import Steps
from tests.api.conftest import CSV, Shared, claim, spec_of, submit, succeed, upload

pytestmark = pytest.mark.slow


def test_submitted_job_is_queued_and_located(client: httpx.Client) -> None:
    spec = spec_of(upload(client), name="first", labels={"team": "support"})

    response = client.post("/jobs", json=spec)

    job = response.json()
    assert response.status_code == 201
    assert response.headers["Location"] == f"/jobs/{job['id']}"
    assert (job["state"], job["queue_position"], job["attempt"]) == ("queued", 1, 0)
    assert (job["name"], job["labels"]) == ("first", {"team": "support"})
    assert job["spec"]["training"]["batch_size"] == 16
    assert job["error"] is job["progress"] is job["resolved"] is job["best"] is None
    assert "attempts" not in job
    assert not {"worker", "lease_until", "project", "dataset_ids"} & set(job)


def test_attempts_tell_how_many_of_their_steps_were_taken_again(
    client: httpx.Client, backends: Backends
) -> None:
    job_id = submit(client)
    for worked in (Steps(1, 17), None, Steps(11, 30)):
        attempt = claim(backends).attempt
        with backends.database.transaction() as tx:
            attempts.count_batch(tx, job_id, attempt=attempt, number=1, steps=worked)
            attempts.end(tx, job_id, State.QUEUED, attempt=attempt, reason="the worker stopped")
    found = client.get(f"/jobs/{job_id}").json()["attempts"]
    assert [one["steps_lost"] for one in found] == [7, 0, None]


def test_steps_of_workers_that_died_are_told(client: httpx.Client, backends: Backends) -> None:
    job_id = submit(client)
    for worked in (Steps(1, 12), Steps(11, 20), None, Steps(19, 30)):
        attempt = claim(backends).attempt
        with backends.database.transaction() as tx:
            attempts.count_batch(tx, job_id, attempt=attempt, number=1, steps=worked)
            tx.connection.execute(
                text("UPDATE jobs SET lease_until = now() - interval '1 s', max_attempts = 9")
            )
        with backends.database.transaction() as tx:
            (lost,) = attempts.expired(tx)
            attempts.take_back(tx, lost)
    found = client.get(f"/jobs/{job_id}").json()["attempts"]
    steps = [(one["first_step"], one["last_step"], one["steps_lost"]) for one in found]
    assert steps == [(1, 12, 2), (11, 20, 2), (None, None, 0), (19, 30, None)]


def test_checkpoints_are_listed_from_the_latest_with_the_best_named(
    client: httpx.Client, backends: Backends
) -> None:
    job_id = submit(client)
    claim(backends)
    for step in (5, 10, 15):
        with backends.database.transaction() as tx:
            files = [{"path": "manifest.json", "size_bytes": 7, "sha256": str(step)}]
            checkpoints.begin(
                tx,
                job_id,
                attempt=1,
                step=step,
                key=f"jobs/{job_id}/attempt-1/checkpoint-{step}",
                files=files,
                metrics={"loss": 1 / step},
                is_best=step < 15,
            )
        if step < 15:  # the last one is still on its way
            with backends.database.transaction() as tx:
                checkpoints.complete(tx, job_id, attempt=1, step=step, keep=5)

    page = client.get(f"/jobs/{job_id}/checkpoints", params={"limit": 1}).json()
    rest = client.get(f"/jobs/{job_id}/checkpoints", params={"after": "checkpoint-10"}).json()

    (latest,) = page["data"]
    assert page["has_more"] is True
    assert (latest["id"], latest["step"], latest["is_best"]) == ("checkpoint-10", 10, True)
    assert (latest["size_bytes"], latest["metrics"]) == (7, {"loss": 0.1})
    assert latest["model"] == f"job:{job_id}/checkpoint-10"
    assert [(one["step"], one["is_best"]) for one in rest["data"]] == [(5, False)]
    assert client.get("/jobs/job_0123456789ab/checkpoints").status_code == 404
    wrong = client.get(f"/jobs/{job_id}/checkpoints", params={"after": "x"})
    assert (wrong.status_code, wrong.json()["code"]) == (404, "checkpoint_not_found")


@pytest.mark.parametrize(
    ("step", "reason"), [(5, "no whole model"), (7, "no stored checkpoint of step 7")]
)
def test_job_can_only_start_from_a_checkpoint_that_is_there_and_whole(
    client: httpx.Client, backends: Backends, step: int, reason: str
) -> None:
    origin = submit(client)
    job = claim(backends)
    with backends.database.transaction() as tx:
        files = [{"path": "adapter_model.safetensors", "size_bytes": 7, "sha256": "0"}]
        checkpoints.begin(
            tx, origin, attempt=1, step=5, key="k", files=files, metrics={}, is_best=False
        )
        checkpoints.complete(tx, origin, attempt=1, step=5, keep=2)
    spec = spec_of(upload(client), model=f"job:{origin}/checkpoint-{step}")

    running = client.post("/jobs", json=spec)
    succeed(backends, job, {"config.json": b"{}"})
    ended = client.post("/jobs", json=spec)

    assert running.status_code == ended.status_code == 422
    assert "come and go" in running.json()["errors"][0]["message"]
    assert reason in ended.json()["errors"][0]["message"]


def test_job_tells_its_attempts_and_files(client: httpx.Client, backends: Backends) -> None:
    job_id = submit(client)
    job = claim(backends)
    progress = {
        "step": 5,
        "max_steps": 10,
        "epoch": 1.5,
        "num_tokens": 700,
        "loss": 0.25,
        "eta_seconds": 12.5,
    }
    with backends.database.transaction() as tx:
        attempts.note(tx, job_id, attempt=1, values={"progress": progress, "phase": "training"})
    running = client.get(f"/jobs/{job_id}").json()
    succeed(backends, job, {"config.json": b"{}"})

    ended = client.get(f"/jobs/{job_id}").json()

    assert (running["state"], running["phase"], running["progress"]) == (
        "running",
        "training",
        progress,
    )
    assert ended["state"] == "succeeded"
    assert ended["best"] == {"step": 10, "metrics": {"accuracy": 0.9}}
    assert [a["path"] for a in ended["artifacts"]] == ["config.json"]
    (attempt,) = ended["attempts"]
    assert (attempt["number"], attempt["worker"], attempt["last_step"]) == (1, "worker-1", 10)
    assert ended["finished_at"].endswith("Z")


def test_queued_jobs_have_positions_by_priority(client: httpx.Client) -> None:
    first = submit(client)
    second = submit(client)
    urgent = submit(client, resources={"priority": 5})

    jobs = {job["id"]: job["queue_position"] for job in client.get("/jobs").json()["data"]}

    assert jobs == {urgent: 1, first: 2, second: 3}


def test_jobs_are_listed_by_state_task_and_label(client: httpx.Client) -> None:
    plain = submit(client)
    labelled = submit(client, labels={"team": "a", "kind": "x=y"})
    client.post(f"/jobs/{plain}/cancel")

    def listed(query: str) -> list[str]:
        return [job["id"] for job in client.get(f"/jobs?{query}").json()["data"]]

    assert listed("state=cancelled") == [plain]
    assert listed("state=queued") == [labelled]
    assert listed("label=team=a&label=kind=x=y") == [labelled]
    assert listed("label=team=a&label=kind=z") == []
    assert listed("task=text-classification") == [labelled, plain]
    assert listed("task=causal-lm") == []


def test_cursor_walk_skips_and_doubles_nothing_while_jobs_are_added(client: httpx.Client) -> None:
    dataset = upload(client)

    def add() -> str:
        return str(client.post("/jobs", json=spec_of(dataset)).json()["id"])

    before = [add() for _ in range(7)]
    seen: list[str] = []
    after = ""
    while True:
        page = client.get("/jobs", params={"limit": 2, **({"after": after} if after else {})})
        seen += [job["id"] for job in page.json()["data"]]
        add()
        if not page.json()["has_more"]:
            break
        after = seen[-1]

    assert seen == list(reversed(before))


def test_cancelling_a_queued_job_ends_it_and_again_is_no_error(client: httpx.Client) -> None:
    job_id = submit(client)

    answers = [client.post(f"/jobs/{job_id}/cancel") for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert [answer.json()["state"] for answer in answers] == ["cancelled", "cancelled"]


def test_cancelling_a_running_job_asks_its_worker(client: httpx.Client, backends: Backends) -> None:
    job_id = submit(client)
    claim(backends)

    response = client.post(f"/jobs/{job_id}/cancel")

    assert (response.status_code, response.json()["state"]) == (200, "cancelling")


def test_cancelling_a_succeeded_job_is_a_conflict(client: httpx.Client, backends: Backends) -> None:
    job_id = submit(client)
    succeed(backends, claim(backends), {"config.json": b"{}"})

    response = client.post(f"/jobs/{job_id}/cancel")

    problem = response.json()
    assert (response.status_code, problem["code"]) == (409, "illegal_transition")
    assert problem["state"] == "succeeded"


@pytest.mark.parametrize(
    "job_id", ["job_0123456789", "nonsense", "a%2Fb", "%00", "'; --", "x" * 99]
)
def test_unknown_job_is_not_found(shared: Shared, job_id: str) -> None:
    response = shared.client.get(f"/jobs/{job_id}")

    assert response.status_code == 404
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["request_id"] == response.headers["X-Request-ID"]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("state=sleeping", "state"),
        ("sate=queued", "sate"),
        ("label=team", "/label"),
        ("task=tagging", "/task"),
        ("after=", "after"),
    ],
)
def test_wrong_parameter_is_named(shared: Shared, query: str, param: str) -> None:
    response = shared.client.get(f"/jobs?{query}")

    problem = response.json()
    assert (response.status_code, problem["param"]) == (422, param)
    assert problem["errors"][0]["pointer"].removesuffix("/0") == f"/{param.lstrip('/')}"


def test_nul_in_a_parameter_is_refused(shared: Shared) -> None:
    assert shared.client.get("/jobs?after=%00").status_code == 400


LINES = [f'{{"text": "message {n}", "label": "{"ab"[n % 2]}"}}' for n in range(10_000)]


def _unknown_task(client: httpx.Client) -> dict[str, Any]:
    return spec_of(upload(client), task="text-clasification")


def _wrong_column(client: httpx.Client) -> dict[str, Any]:
    dataset = upload(client)
    return spec_of(dataset, data={"train": f"dataset:{dataset}", "columns": {"label": "intent"}})


def _one_broken_line(client: httpx.Client) -> dict[str, Any]:
    lines = [*LINES[:6122], LINES[6122][:-1], *LINES[6123:]]
    return spec_of(upload(client, "\n".join(lines), name="big.jsonl"))


def _label_only_in_eval(client: httpx.Client) -> dict[str, Any]:
    evaluation = upload(client, "text,label\nhello,a\nthere,c\n", name="eval.csv")
    data = {"train": f"dataset:{upload(client)}", "eval": f"dataset:{evaluation}"}
    return spec_of("", data=data)


def _missing_model(client: httpx.Client) -> dict[str, Any]:
    return spec_of(upload(client), model="model:nowhere")


def _three_rows(client: httpx.Client) -> dict[str, Any]:
    return spec_of(upload(client, "text,label\none,a\ntwo,b\nthree,a\n"))


def _nul_bytes(client: httpx.Client) -> dict[str, Any]:
    return spec_of(upload(client), name="bad\x00name")


def _field_of_another_task(client: httpx.Client) -> dict[str, Any]:
    return spec_of(upload(client), loss_on="all")


def _learning_rate_of_fast(client: httpx.Client) -> dict[str, Any]:
    return spec_of(upload(client), training={"learning_rate": "fast"})


def _missing_dataset(client: httpx.Client) -> dict[str, Any]:
    return spec_of("ds_0123456789")


@pytest.mark.parametrize(
    ("make", "code", "places", "fix"),
    [
        (_unknown_task, "invalid_spec", ["/task"], "text-classification"),
        (_wrong_column, "unknown_column", ["intent", "train.csv"], "data.columns.label"),
        (_one_broken_line, "invalid_rows", ["big.jsonl", "line 6123"], "skip"),
        (_label_only_in_eval, "unseen_label", ["'c'", "eval.csv", "line 3"], "train.csv"),
        (_missing_model, "invalid_spec", ["/model", "nowhere"], "GET /models"),
        (_three_rows, "too_few_rows", ["train.csv", "10"], "Add rows"),
        (_nul_bytes, "invalid_spec", ["/name", "NUL"], ""),
        (_field_of_another_task, "invalid_spec", ["/loss_on", "causal-lm"], "Leave it out"),
        (_learning_rate_of_fast, "invalid_spec", ["/training/learning_rate", "fast"], ""),
        (_missing_dataset, "invalid_spec", ["/data/train", "ds_0123456789"], "POST /datasets"),
    ],
)
def test_bad_job_is_told_its_place_and_fix_and_leaves_no_row(
    client: httpx.Client, make: Any, code: str, places: list[str], fix: str
) -> None:
    spec = make(client)

    response = client.post("/jobs", json=spec)

    problem = response.json()
    assert (response.status_code, problem["code"]) == (422, code)
    for place in places:
        assert place in problem["detail"]
    assert fix in problem["hint"]
    assert client.get("/jobs").json()["data"] == []


def test_every_wrong_field_is_told_at_once(shared: Shared) -> None:
    spec = {
        "task": "text-classification",
        "model": "C:\\models",
        "data": {"train": "ds", "evil": 1},
        "training": {"epochs": -1},
    }

    problem = shared.client.post("/jobs", json=spec).json()

    pointers = {error["pointer"] for error in problem["errors"]}
    assert pointers == {"/model", "/data/train", "/data/evil", "/training/epochs"}


def test_bad_rows_come_with_their_total(client: httpx.Client) -> None:
    rows = [f"message {n},{'ab'[n % 2] if n % 2 else ''}" for n in range(300)]
    spec = spec_of(upload(client, "text,label\n" + "\n".join(rows)))

    problem = client.post("/jobs", json=spec).json()

    assert (problem["code"], problem["total"]) == ("invalid_rows", 150)
    assert len(problem["rows"]) == 100
    assert problem["rows"][0]["line"] == 2


def _post(
    client: httpx.Client, body: bytes, media_type: str = "application/json"
) -> httpx.Response:
    return client.post("/jobs", content=body, headers={"Content-Type": media_type})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "line 1, column 1"),
        (b"{", "line 1, column 2"),
        (b'{"task":\n  nope}', "line 2, column 3"),
        (b'{"a": NaN}', "NaN is not JSON, at line 1, column 7"),
        (b'{"a": "NaN",\n "b": -Infinity}', "-Infinity is not JSON, at line 2, column 7"),
        (b'{"a": 1, "a": 2}', "key 'a' is given twice"),
        (b"[" * 100_000, "deeper than 64 levels, at line 1, column 65"),
        (b'{"a":' * 100_000, "deeper than 64 levels"),
        (b'{"a": ' + b"9" * 5000 + b"}", "number"),
        (b'{"a": "\xff"}', "not UTF-8, at line 1, column 8"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"task": "x"} trailing', "line 1, column 15"),
        (b"'single'", "line 1, column 1"),
        (b'"' + b'\\"' * 400_000, "Unterminated string"),
        (b"{" + b",".join(b'"%d":0' % (n % 50_000) for n in range(50_001)) + b"}", "'0' is given"),
    ],
)
def test_malformed_json_is_a_400_with_its_place(shared: Shared, body: bytes, message: str) -> None:
    response = _post(shared.client, body)

    problem = response.json()
    assert (response.status_code, problem["code"]) == (400, "invalid_json")
    assert message in problem["detail"]


@pytest.mark.parametrize(
    "body", [b"null", b"[]", b'"text"', b"3", b"1e999", b"{}", b'{"task": []}']
)
def test_json_that_is_no_spec_is_a_422(shared: Shared, body: bytes) -> None:
    response = _post(shared.client, body)

    assert (response.status_code, response.json()["code"]) == (422, "invalid_spec")


def test_body_with_a_byte_order_mark_is_read(shared: Shared) -> None:
    assert _post(shared.client, b"\xef\xbb\xbf{}").status_code == 422


def test_body_above_one_mebibyte_is_refused(client: httpx.Client) -> None:
    told = _post(client, b" " * (1 << 20) + b"{}")
    untold = client.post(
        "/jobs",
        content=iter([b" " * 600_000] * 2),
        headers={"Content-Type": "application/json"},
    )

    assert [told.status_code, untold.status_code] == [413, 413]
    assert told.json()["code"] == "payload_too_large"
    assert client.get("/livez").status_code == 200


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_body_that_does_not_say_json_is_refused(shared: Shared, media_type: str) -> None:
    response = _post(shared.client, b"{}", media_type)

    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")


def test_connections_that_the_database_closed_are_replaced(
    client: httpx.Client, backends: Backends
) -> None:
    engine = backends.engine
    job_id = submit(client)
    with engine.connect() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

    assert client.get(f"/jobs/{job_id}").status_code == 200


def test_submitting_while_a_file_is_gone_from_the_storage_is_a_clear_error(
    client: httpx.Client, tmp_path: Path
) -> None:
    dataset = upload(client, CSV)
    (tmp_path / "home" / "storage" / "datasets" / dataset).unlink()

    response = client.post("/jobs", json=spec_of(dataset))

    assert response.status_code == 503
    assert client.get("/jobs").json()["data"] == []
