"""Tasks, health, and what every response has in common."""

import socket
import subprocess
import sys

import httpx
import pytest
import redis
from sqlalchemy import text

import jobs.database
from api.guard import Hosts, check
from jobs.backends import Backends
from jobs.database import make_engine
from jobs.settings import Settings
from tests.api.conftest import Shared, serve, spec_of, submit, upload
from trainer_core.errors import UnknownHost
from trainer_core.spec import TASKS, parse_spec

pytestmark = pytest.mark.slow


def test_tasks_are_listed_and_described(shared: Shared) -> None:
    listed = shared.client.get("/tasks").json()["data"]

    assert [item["task"] for item in listed] == list(TASKS)
    for item in listed:
        task = shared.client.get(f"/tasks/{item['task']}").json()
        assert set(task) == {"task", "summary", "schema", "defaults", "example", "metrics"}
        assert task["schema"]["properties"]["training"]
        assert task["defaults"]["training"]["batch_size"] == 16
        assert task["defaults"]["data"]["eval"] == 0.1
        assert "train" not in task["defaults"]["data"]
        assert "loss" in task["metrics"]
        parse_spec(task["example"])


def test_unknown_task_is_not_found_with_the_nearest(shared: Shared) -> None:
    response = shared.client.get("/tasks/text-clasification")

    assert (response.status_code, response.json()["code"]) == (404, "task_not_found")
    assert "text-classification" in response.json()["hint"]


def test_service_is_live_and_ready(shared: Shared) -> None:
    ready = shared.client.get("/readyz")

    assert shared.client.get("/livez").json() == {"status": "ok"}
    assert (ready.status_code, ready.json()["status"]) == (200, "ok")
    assert ready.json()["checks"] == dict.fromkeys(
        ("database", "migrations", "redis", "storage"), True
    )


def test_service_without_its_servers_is_live_not_ready_and_says_what_is_missing(
    service_settings: Settings,
) -> None:
    settings = service_settings.model_copy(
        update={
            "database_url": "postgresql+psycopg://u:secret@127.0.0.1:1/x",
            "redis_url": "redis://127.0.0.1:1/0",
        }
    )
    with serve(settings) as url, httpx.Client(base_url=url, timeout=30) as client:
        live, ready, jobs = (client.get(path) for path in ("/livez", "/readyz", "/jobs"))

    assert (live.status_code, ready.status_code, jobs.status_code) == (200, 503, 503)
    assert ready.json()["checks"] == {
        "database": False,
        "migrations": False,
        "redis": False,
        "storage": True,
    }
    assert jobs.json()["code"] == "service_unavailable"
    assert "Retry-After" in jobs.headers
    assert "secret" not in jobs.text + ready.text


def test_lost_storage_is_not_ready(client: httpx.Client, service_settings: Settings) -> None:
    storage = service_settings.home / "storage"
    storage.rename(storage.with_name("moved"))
    storage.write_text("a file in its place")

    ready = client.get("/readyz")

    assert (ready.status_code, ready.json()["checks"]["storage"]) == (503, False)


@pytest.mark.parametrize(
    ("break_it", "mend_it"),
    [
        ({"maxmemory": "1mb"}, {"maxmemory": "0"}),
        ({"min-replicas-to-write": "1"}, {"min-replicas-to-write": "0"}),
    ],
    ids=["full", "refuses writes"],
)
def test_redis_that_takes_no_writes_is_not_ready_and_jobs_are_taken_all_the_same(
    client: httpx.Client,
    backends: Backends,
    break_it: dict[str, str],
    mend_it: dict[str, str],
) -> None:
    """B6."""
    with redis.Redis.from_url(backends.redis_url) as server:
        for name, value in break_it.items():
            server.config_set(name, value)
        try:
            ready = client.get("/readyz")
            job_id = submit(client)
        finally:
            for name, value in mend_it.items():
                server.config_set(name, value)

    assert (ready.status_code, ready.json()["checks"]["redis"]) == (503, False)
    assert client.get(f"/jobs/{job_id}").json()["state"] == "queued"
    assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize(
    ("sqlstate", "status", "code"),
    [("53100", 507, "disk_full"), ("25006", 503, "service_unavailable")],
    ids=["full", "read-only"],
)
def test_database_that_takes_no_writes_is_told_and_needs_no_restart(
    client: httpx.Client, backends: Backends, sqlstate: str, status: int, code: str
) -> None:
    """B10: PostgreSQL's own error, raised by a trigger in place of a disk that is full."""
    spec = spec_of(upload(client))
    with backends.engine.begin() as connection:
        connection.execute(
            text(f"""
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{sqlstate}'; END $$;
            CREATE TRIGGER refuse BEFORE INSERT ON jobs EXECUTE FUNCTION refuse()""")
        )

    refused = client.post("/jobs", json=spec)

    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert "Retry-After" in refused.headers
    with backends.engine.begin() as connection:
        connection.execute(text("DROP TRIGGER refuse ON jobs"))
    assert client.post("/jobs", json=spec).status_code == 201


def test_request_for_a_job_that_a_frozen_process_holds_is_soon_told_to_come_again(
    service_settings: Settings, backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B13."""
    monkeypatch.setattr(jobs.database, "_LOCK_MILLISECONDS", 200)
    with serve(service_settings) as url, httpx.Client(base_url=url, timeout=30) as client:
        job_id = submit(client)
        with backends.engine.begin() as connection:
            connection.execute(text("SELECT FROM jobs WHERE id = :id FOR UPDATE"), {"id": job_id})
            refused = client.post(f"/jobs/{job_id}/cancel")

        assert (refused.status_code, refused.json()["code"]) == (503, "service_unavailable")
        assert refused.headers["Retry-After"] == "2"
        assert client.post(f"/jobs/{job_id}/cancel").status_code == 200


def test_every_response_has_an_id_of_its_own_and_the_security_headers(
    client: httpx.Client,
) -> None:
    job_id = submit(client)
    answers = [
        client.get("/livez"),
        client.get(f"/jobs/{job_id}"),
        client.get("/nowhere"),
        client.put("/jobs"),
        client.get("/jobs?limit=0"),
        client.post("/jobs", content=b"{"),
        client.get("/livez", headers={"Host": "evil.example"}),
        client.get("/docs"),
        client.get("/"),
    ]

    assert len({answer.headers["X-Request-ID"] for answer in answers}) == len(answers)
    for answer in answers:
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert "server" not in answer.headers


def test_root_leads_to_the_docs(shared: Shared) -> None:
    response = shared.client.get("/", follow_redirects=True)

    assert response.url.path == "/docs"
    assert "Luthier" in response.text


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/jobs/", 404, "not_found"),
        ("GET", "/%00", 404, "not_found"),
        ("PUT", "/jobs", 405, "method_not_allowed"),
        ("DELETE", "/tasks", 405, "method_not_allowed"),
        ("PUT", "/jobs/x", 405, "method_not_allowed"),
    ],
)
def test_what_is_not_there_is_a_problem_too(
    shared: Shared, method: str, path: str, status: int, code: str
) -> None:
    response = shared.client.request(method, path)

    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["Content-Type"] == "application/problem+json"
    assert ("Allow" in response.headers) == (status == 405)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8750", "localhost.evil.example", "127.0.0.1.evil.example",
     "testserver", "10.0.0.1", "localhost@evil.example", "evil.example#localhost", "[::2]",
     "localhost:x", "0.0.0.0", "localhost/x", "", "2130706433"],
)  # fmt: skip
def test_foreign_host_is_refused(shared: Shared, host: str) -> None:
    response = shared.client.get("/jobs", headers={"Host": host})

    assert (response.status_code, response.json()["code"]) == (421, "unknown_host")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:99", "[::1]", "[::1]:8750"]
)
def test_loopback_host_is_answered(shared: Shared, host: str) -> None:
    assert shared.client.get("/jobs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("server", [("192.168.1.5", 8750), ("::", 8750), ("/run/x", None), None])
def test_request_that_came_by_another_address_is_refused_whatever_its_host_says(
    server: tuple[str, int | None] | None,
) -> None:
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/jobs",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
    }
    check({**scope, "server": ("127.0.0.1", 8750)}, hosts=Hosts())

    with pytest.raises(UnknownHost):
        check({**scope, "server": server}, hosts=Hosts())


def test_second_host_header_is_refused(shared: Shared) -> None:
    address = httpx.URL(shared.url)
    with socket.create_connection((address.host, address.port or 0), timeout=10) as connection:
        connection.sendall(b"GET /jobs HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        answer = connection.recv(100)

    assert answer.split()[1] in (b"400", b"421")


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://127.0.0.1"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "https://evil.example"},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/jobs"), ("POST", "/datasets"), ("POST", "/models"), ("DELETE", "/datasets/x"),
     ("POST", "/jobs/x/cancel")],
)  # fmt: skip
def test_page_of_another_site_may_not_change_anything(
    shared: Shared, method: str, path: str, headers: dict[str, str]
) -> None:
    response = shared.client.request(method, path, headers=headers)

    assert (response.status_code, response.json()["code"]) == (403, "cross_site_request")


def test_page_of_this_service_may(client: httpx.Client, url: str) -> None:
    headers = {"Origin": url, "Sec-Fetch-Site": "same-origin"}

    response = client.post("/models", json={"name": "x", "hub": "org/x"}, headers=headers)

    assert response.status_code == 201


@pytest.mark.parametrize(
    ("host", "kind", "status"),
    [
        ("evil.example", "application/json", b"421"),
        ("localhost", "application/json", b"413"),
        ("localhost", "text/csv", b"415"),
    ],
)
def test_body_of_a_refused_request_is_not_read_on(
    shared: Shared, host: str, kind: str, status: bytes
) -> None:
    address = httpx.URL(shared.url)
    with socket.create_connection((address.host, address.port or 0), timeout=5) as connection:
        head = f"POST /jobs HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\n"
        connection.sendall(f"{head}Content-Length: 99999999999\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(4096), b""))

    assert answer.split()[1] == status
    assert b"connection: close" in answer.lower()


def test_small_body_of_a_refused_request_is_read_so_that_no_reset_takes_the_answer(
    shared: Shared,
) -> None:
    address = httpx.URL(shared.url)
    with socket.create_connection((address.host, address.port or 0), timeout=5) as connection:
        for _ in range(2):  # on one connection
            head = b"POST /jobs HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 20000\r\n\r\n"
            connection.sendall(head)
            connection.sendall(b"x" * 20_000)
            answer = connection.recv(65_536)
            assert answer.split()[1] == b"421"
            assert b"connection: close" not in answer.lower()


def test_small_body_that_does_not_come_is_not_waited_for(shared: Shared) -> None:
    address = httpx.URL(shared.url)
    with socket.create_connection((address.host, address.port or 0), timeout=5) as connection:
        connection.sendall(
            b"POST /jobs HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 9\r\n\r\n"
        )
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.split()[1] == b"421"
    assert b"connection: close" in answer.lower()


def test_connection_is_kept_after_an_answer_to_a_whole_body(shared: Shared) -> None:
    response = shared.client.post("/jobs", json={})

    assert response.status_code == 422
    assert response.headers.get("Connection") != "close"


def test_no_response_lets_another_site_read_it(shared: Shared) -> None:
    response = shared.client.get("/jobs", headers={"Origin": "https://evil.example"})

    assert "Access-Control-Allow-Origin" not in response.headers
    assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_unforeseen_failure_tells_an_id_and_no_trace(
    client: httpx.Client, service_settings: Settings
) -> None:
    assert service_settings.database_url is not None
    engine = make_engine(service_settings.database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE models RENAME TO elsewhere")
    engine.dispose()

    response = client.get("/models")

    problem = response.json()
    assert (response.status_code, problem["code"]) == (500, "internal_error")
    assert problem["request_id"] == response.headers["X-Request-ID"]
    assert "elsewhere" not in response.text
    assert "SELECT" not in response.text


def test_garbage_on_the_wire_leaves_the_service_alive(shared: Shared) -> None:
    address = httpx.URL(shared.url)
    for garbage in (b"\x00\xff" * 500, b"GET / HTTP/9.9\r\n\r\n", b"GET /jobs HTTP/1.1\r\n\r\n"):
        with socket.create_connection((address.host, address.port or 0), timeout=5) as connection:
            connection.sendall(garbage)
            assert connection.recv(100).startswith((b"HTTP/1.1 4", b""))
    shared.client.get("/livez", headers={"X-Big": "x" * 60_000})

    assert shared.client.get("/livez").status_code == 200


def test_importing_the_service_loads_nothing_of_training() -> None:
    heavy = ("torch", "transformers", "datasets", "accelerate", "peft", "pyarrow", "celery.worker")
    code = f"import sys, api.app; print([name for name in {heavy} if name in sys.modules])"

    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout

    assert found.strip() == "[]"
