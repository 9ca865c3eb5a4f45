"""Secrets in every place where they can be, and in none where they must not be."""

import http.server
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from sqlalchemy import make_url, text

from jobs.backends import Backends, connect
from jobs.settings import load_settings
from jobs.store import keys
from luthier.embedded.ports import free_port
from tests.conftest import Servers, fresh_database
from tests.drills.work import save_model
from tests.pushable_hub import PushableHub

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROWS = "text,label\n" + "".join(f"message {n},{'ab'[n % 2]}\n" for n in range(40))
REPO = "me/colours"
FINAL = ("succeeded", "failed", "cancelled")

# Every process logs what its libraries do, and a training process tells all that it knows, a while
# after its job has begun.
CHATTERER = """
import logging, os, sys, threading, time
logging.root.addHandler(logging.StreamHandler())
for name in (
    "api", "asyncio", "celery", "filelock", "httpcore", "httpx", "huggingface_hub", "jobs", "kombu",
    "luthier", "mlflow", "redis", "requests", "sqlalchemy", "trainer_core", "transformers",
    "urllib3", "uvicorn", "wandb", "worker",
):
    logging.getLogger(name).setLevel(logging.DEBUG)
def tell():
    while not os.environ.get("TRACKIO_WRITE_TOKEN"):
        time.sleep(0.05)
    time.sleep(1)
    for name, value in os.environ.items():
        os.write(2, f"{name}={value}\\n".encode())
if "trainer_core.training" in sys.orig_argv:
    threading.Thread(target=tell, daemon=True).start()
"""


class Echo(http.server.BaseHTTPRequestHandler):
    """A Hub, and a server of trackers, that repeats what it was sent with its refusal."""

    heard: list[str] = []  # noqa: RUF012 - of the one test

    def do_GET(self) -> None:
        sent = self.headers.get("Authorization", "")
        self.heard.append(sent)
        body = json.dumps({"error_code": "BAD_REQUEST", "message": f"no: {sent}"}).encode()
        self.send_response(400)
        self.send_header("X-Error-Message", f"you sent {sent}")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_HEAD = do_GET  # noqa: N815 - the server's names

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def echo() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Watch:
    """Looks at the command lines of all processes, again and again."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.2):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen.add(path.read_bytes().decode(errors="replace"))
                except OSError:
                    continue


@pytest.mark.parametrize("state", ["failed", "succeeded"])
def test_no_secret_is_anywhere_but_in_its_place(
    servers: Servers, tmp_path: Path, echo: str, state: str
) -> None:
    home, plugins = tmp_path / "home", tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "sitecustomize.py").write_text(CHATTERER)
    canaries = {name: f"canary-{secrets.token_hex(12)}" for name in (
        "hf", "wandb", "mlflow", "trackio",  # stored by name
        "WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD",
    )}  # fmt: skip
    with ExitStack() as contexts, fresh_database(servers) as database_url:
        port = free_port()
        settings = load_settings(
            home=home, database_url=database_url, redis_url=servers.redis_url, auth="keys",
            port=port, secret_key=secrets.token_urlsafe(32), model_roots=(tmp_path / "models",),
        )  # fmt: skip
        backends = connect(settings)
        with backends.database.transaction() as tx:
            admin = keys.issue(tx, project="default", name="admin", scopes=["admin"]).secret
        canaries |= {
            "database": str(make_url(database_url).password),
            "redis": str(make_url(servers.redis_url).password),
            "seal": settings.secret_key.get_secret_value(),
            "admin": admin,
            "unknown": "luthier_" + secrets.token_urlsafe(32),
            "in a query": "luthier_" + secrets.token_urlsafe(32),
        }
        environment = {
            **os.environ,
            **{name: value for name, value in canaries.items() if name.isupper()},
            "LUTHIER_HOME": str(home), "LUTHIER_PORT": str(port), "LUTHIER_AUTH": "keys",
            "LUTHIER_DATABASE_URL": database_url, "LUTHIER_REDIS_URL": servers.redis_url,
            "LUTHIER_SECRET_KEY": canaries["seal"], "LUTHIER_MODEL_ROOTS": str(tmp_path / "models"),
            "LUTHIER_TRAINING_THREADS": "1", "LUTHIER_WARM_SPARE": "false",
            "PYTHONPATH": os.pathsep.join([str(plugins), *sys.path]),
            "HF_ENDPOINT": echo, "MLFLOW_TRACKING_URI": echo,
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "HF_DEBUG": "1", "WANDB_DEBUG": "true",
        }  # fmt: skip
        hub = PushableHub(canaries["hf"])
        if state == "succeeded":
            environment["HF_ENDPOINT"] = contexts.enter_context(hub.serve())
            environment.pop("HF_HUB_OFFLINE", None)
        with Watch() as watch, running(home, environment) as url:
            submit_all(url, canaries, tmp_path / "models", state=state)
            if state == "succeeded":
                push_again(url, canaries, hub)
        told = "\n".join(everything(backends, settings.redis_url))
        backends.engine.dispose()

    files = [path for path in home.rglob("*") if path.is_file()]
    if state == "failed":
        assert any(canaries["hf"] in one for one in Echo.heard), "the Hub got no token"
        assert "select" in (home / "logs" / "api.log").read_text().lower(), "nothing was debugged"
    else:
        assert any("model" in path.parts and path.name == "README.md" for path in files)
        assert "TRACKIO_WRITE_TOKEN=[redacted]" in told, "the process did not tell what it knows"
    for name, canary in canaries.items():
        assert canary not in told, f"{name} is in the database or in Redis"
        assert not [one for one in watch.seen if canary in one], f"{name} is in a command line"
        held = [path for path in files if canary.encode() in path.read_bytes()]
        assert not held, f"{name} is in {held}"


def running(home: Path, environment: dict[str, str]) -> Any:
    """Run an API and a worker for a while, logs in the home; give the address."""
    from contextlib import contextmanager

    @contextmanager
    def both() -> Iterator[str]:
        (home / "logs").mkdir(parents=True)
        parts = []
        for part in ("api", "worker"):
            with (home / "logs" / f"{part}.log").open("wb") as log:
                parts.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "luthier", part],
                        env=environment, stdout=log, stderr=log,
                    )
                )  # fmt: skip
        url = f"http://127.0.0.1:{environment['LUTHIER_PORT']}"
        try:
            deadline = time.monotonic() + 120
            while not is_ready(url):
                assert parts[0].poll() is None, (home / "logs" / "api.log").read_text()
                assert time.monotonic() < deadline, "the API did not start in time"
                time.sleep(0.2)
            yield url
        finally:
            for part in reversed(parts):
                part.terminate()
                part.wait(120)

    return both()


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez").status_code == 200
    except httpx.TransportError:
        return False


def submit_all(url: str, canaries: dict[str, str], models: Path, *, state: str) -> None:
    """Submit a job that ends in a state, and send keys where none belong."""
    headers = {"Authorization": f"Bearer {canaries['unknown']}"}
    assert httpx.get(f"{url}/jobs", headers=headers).status_code == 401
    headers = {"Authorization": f"Bearer {canaries['admin']}"}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        wrong = client.get("/jobs", params={"api_key": canaries["in a query"]})
        assert wrong.status_code == 422
        made = client.post("/keys", json={"name": "ci", "scopes": ["submit"]}).json()
        new = client.post(f"/keys/{made['id']}/rotate", json={"overlap_seconds": 0}).json()
        canaries |= {"rotated": made["secret"], "submit": new["secret"]}
        for use in ("hf", "wandb", "mlflow", "trackio"):
            stored = client.put(f"/secrets/my-{use}", json={"value": canaries[use]})
            assert stored.status_code == 200
            assert canaries[use] not in stored.text + client.get("/secrets").text
        if state == "succeeded":
            save_model("encoder", models / "tiny")
            made = client.post("/models", json={"name": "tiny", "path": str(models / "tiny")})
            assert made.status_code == 201
        client.headers["Authorization"] = f"Bearer {new['secret']}"
        rows = client.post("/datasets", files={"file": ("train.csv", ROWS)}).json()["id"]
        spec = {
            "task": "text-classification",
            "model": "model:tiny",
            "data": {"train": f"dataset:{rows}"},
            "training": {"epochs": 1, "batch_size": 8},
            "tracking": ["tensorboard", "wandb", "mlflow", "trackio"],
            "secrets": {use: f"my-{use}" for use in ("hf", "wandb", "mlflow", "trackio")},
            "output": {"push": {"repo": REPO}},
        }
        if state == "failed":
            spec["model"] = "hub:org/private"
        refuse_in_specs(client, canaries, spec)
        refuse_as_openais(client, canaries["hf"], rows=rows)
        unknown = client.post("/jobs", json={**spec, "secrets": {"hf": "nobodys"}})
        assert unknown.json()["errors"][0]["pointer"] == "/secrets/hf"
        job_ids = [client.post("/jobs", json=spec).raise_for_status().json()["id"]]
        if state == "failed":
            given = {**spec, "training_file": rows}
            del given["data"]
            made = client.post("/v1/fine_tuning/jobs", json=given)
            assert made.status_code == 200, made.text
            job_ids.append(made.json()["id"].replace("ftjob-", "job_"))
        for job_id in job_ids:
            job = ended(client, job_id)
            assert job["state"] == state, json.dumps(job["error"])
            log = client.get(f"/jobs/{job_id}/logs").text + json.dumps(job)
            assert not [name for name, one in canaries.items() if one in log]


def refuse_in_specs(client: httpx.Client, canaries: dict[str, str], spec: dict[str, Any]) -> None:
    for place in ({"name": canaries["hf"]}, {"labels": {"key": canaries["admin"]}}):
        refused = client.post("/jobs", json={**spec, **place})
        assert refused.status_code == 422
        validated = client.post("/jobs/validate", json={**spec, **place})
        for told in (refused.text, validated.text):
            assert "holds what looks like a secret" in told
            assert not [one for one in canaries.values() if one in told]


def push_again(url: str, canaries: dict[str, str], hub: PushableHub) -> None:
    """Await the push of what has succeeded, then have one refused by a Hub that says the token."""
    headers = {"Authorization": f"Bearer {canaries['submit']}"}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        (job,) = client.get("/jobs").json()["data"]
        assert pushed(client, job["id"])["state"] == "pushed"
        hub.fail("create", 403)
        client.post(f"/jobs/{job['id']}/push", json={"repo": "me/others"}).raise_for_status()
        refused = pushed(client, job["id"])
        assert refused["state"] == "failed"
        assert canaries["hf"] not in json.dumps(refused)


def pushed(client: httpx.Client, job_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while True:
        push: dict[str, Any] = client.get(f"/jobs/{job_id}").json()["pushes"][-1]
        if push["state"] != "pending":
            return push
        assert time.monotonic() < deadline, push
        time.sleep(0.2)


def refuse_as_openais(client: httpx.Client, canary: str, *, rows: str) -> None:
    """Send a secret by OpenAI's routes, in each place that is kept."""
    job = {"model": "tiny", "training_file": rows}
    wandb = [{"type": "wandb", "wandb": {"project": canary}}]
    for place in ({"suffix": canary}, {"metadata": {"key": canary}}, {"integrations": wandb}):
        refused = client.post("/v1/fine_tuning/jobs", json=job | place)
        assert (refused.status_code, canary in refused.text) == (400, False)
    file = {"file": (canary, ROWS)}
    refused = client.post("/v1/files", data={"purpose": "batch"}, files=file)
    assert (refused.status_code, canary in refused.text) == (400, False)


def ended(client: httpx.Client, job_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 400
    while True:
        job: dict[str, Any] = client.get(f"/jobs/{job_id}").json()
        if job["state"] in FINAL:
            return job
        assert time.monotonic() < deadline, json.dumps(job)[:2000]
        time.sleep(0.5)


def everything(backends: Backends, redis_url: str) -> Iterator[str]:
    """Yield all that the database and Redis hold."""
    with backends.engine.connect() as connection:
        tables = text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        for table in list(connection.execute(tables).scalars()):
            for row in connection.execute(text(f"SELECT t::text FROM {table} t")):  # noqa: S608
                yield str(row[0])
    with redis.Redis.from_url(redis_url) as client:
        for key in client.scan_iter():
            if client.type(key) == b"stream":
                yield str(client.xrange(key))
            elif client.type(key) == b"list":
                yield str(client.lrange(key, 0, -1))
