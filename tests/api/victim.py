"""A project with one of everything, and every request that could tell a stranger of it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from api.app import create_app
from jobs.settings import Settings
from jobs.store import checkpoints
from tests.api.access import Door
from tests.api.conftest import claim, spec_of, submit, succeed, upload

NOWHERE = "http://127.0.0.1:9/"
PUBLIC = {"get_liveness", "get_readiness"}
SHARED = {"list_tasks", "get_task", "list_webhook_event_types"}  # the same for every project
OWN_NAMES = {"set_secret"}  # a name in the caller's own project, whoever else has one like it

_STEP = 10
_RANDOM_DIGITS = 26  # at the end of an id, and of a name that an id is in
_ENDED = "fine_tuning.job.failed"
_FILE = {"name": "canary.csv", "size_bytes": 9, "sha256": "0" * 64}
_PARTS = {"add_openai_upload_part", "put_upload_part"}


@dataclass(frozen=True)
class Operation:
    """One route and method of the document."""

    name: str
    method: str
    path: str
    content: Mapping[str, Any]  # of its body, by media type
    statuses: frozenset[str]  # of its answers

    @property
    def is_openais(self) -> bool:
        return self.path.startswith("/v1/")


@dataclass(frozen=True)
class Asked:
    """A request, with ids in its path or its body."""

    name: str
    method: str
    path: str
    sent: Mapping[str, Any] = field(default_factory=dict)

    def ask(self, client: httpx.Client) -> httpx.Response:
        return client.request(self.method, self.path, **self.sent)


def operations_of(settings: Settings) -> list[Operation]:
    """Return every operation; those last that make something in the caller's own project."""
    found = [
        Operation(
            operation["operationId"],
            method.upper(),
            path,
            operation.get("requestBody", {}).get("content", {}),
            frozenset(operation["responses"]),
        )
        for path, item in create_app(settings).openapi()["paths"].items()
        for method, operation in item.items()
    ]
    return sorted(found, key=lambda one: one.name in OWN_NAMES)


class Victim:
    """Somebody else's project."""

    def __init__(self, door: Door, client: httpx.Client) -> None:
        hook = {"url": NOWHERE, "name": "canary-hook"}
        webhook_id = made(client, "/webhooks", json=hook)["id"]
        job_id = submit(client, name="canary-job")
        train(door, job_id)
        dataset_id = client.get(f"/jobs/{job_id}").json()["spec"]["data"]["train"][8:]
        made(client, "/models", json={"name": "canary-model", "hub": "org/x"})
        key = {"name": "canary-key", "scopes": ["read"]}
        client.put("/secrets/canary-model", json={"value": "canary-value"}).raise_for_status()
        (sent, *_) = client.get(f"/webhooks/{webhook_id}/deliveries").json()["data"]
        named = [model["id"] for model in client.get("/v1/models").json()["data"]]
        (tuned, *_) = [name for name in named if name.startswith("ft:")]  # the newest
        checkpoint = f"{tuned}:ckpt-step-{_STEP}"
        door.secret("third")
        let = {"project_ids": ["third"]}
        granted = made(client, f"/v1/fine_tuning/checkpoints/{checkpoint}/permissions", json=let)
        file = {"bytes": 8, "filename": "x", "mime_type": "text/plain", "purpose": "user_data"}
        self.ids = {
            "job_id": job_id,
            "dataset_id": dataset_id,
            "key_id": made(client, "/keys", json=key)["id"],
            "webhook_id": webhook_id,
            "event_id": sent["event_id"],
            "sweep_id": made(client, "/sweeps", json=_sweep_of(upload(client)))["id"],
            "file_id": f"file-{dataset_id.removeprefix('ds_')}",
            "upload_id": made(client, "/v1/uploads", json=file)["id"],
            "own_upload_id": made(client, "/uploads", json=_FILE)["id"],
            "model": tuned,
            "checkpoint": checkpoint,
            "permission_id": granted["data"][0]["id"],
        }
        self.names = {
            "name": "canary-model",
            "path": "canary.json",
            "checkpoint_id": f"checkpoint-{_STEP}",
        }

    def requests(self, operation: Operation) -> Iterator[Asked]:
        """Yield what asks for things of this project by one operation, or changes them."""
        values = self.ids | self.names | {"task": "text-classification"}
        name, method = operation.name, operation.method
        if not operation.is_openais:
            values |= {"upload_id": self.ids["own_upload_id"], "number": "1"}
        path = operation.path.format_map(values)  # a parameter that is missing has to be added
        yield Asked(name, method, path, self._body(operation))
        if name == "list_events":
            yield Asked(name, method, path, {"headers": {"Accept": "text/event-stream"}})
        if "{model}" in operation.path:
            yield Asked(name, method, operation.path.format(model="canary-model"))

    def of_nobody(self, text: str) -> str:
        """Return a text with ids and names like this project's in place of them."""
        for own in self.ids.values():
            digits = own.removesuffix(f":ckpt-step-{_STEP}")[-_RANDOM_DIGITS:]
            text = text.replace(digits, digits[:-4] + "zzzz")
        return text.replace("canary-model", "nobody-model")

    def nobodys(self, asked: Asked) -> Asked:
        """Return the same request for things that nobody has."""
        sent = json.loads(self.of_nobody(json.dumps(asked.sent)))
        return Asked(asked.name, asked.method, self.of_nobody(asked.path), sent)

    def _body(self, operation: Operation) -> dict[str, Any]:
        """Return a valid body, which names this project's things wherever it can."""
        if "multipart/form-data" in operation.content:
            name = "data" if operation.name in _PARTS else "file"
            fields = {"purpose": "user_data"} if operation.name == "create_openai_file" else {}
            return {"files": {name: "text,label\nx,a\n"}, "data": fields}
        if "application/json" not in operation.content:
            return {}
        examples = operation.content["application/json"].get("examples", {}).values()
        example = [one["value"] for one in examples][:1]
        body = self._bodies().get(operation.name, *(example or [{}]))
        return {"json": body | ({"url": NOWHERE} if "url" in body else {})}  # no name to look up

    def _bodies(self) -> dict[str, Any]:
        """Return bodies of which the document has no example, or that refer to something."""
        spec = spec_of(self.ids["dataset_id"], model=f"job:{self.ids['job_id']}")
        sweep = _sweep_of(self.ids["dataset_id"])
        tuned = {"model": self.ids["model"]}
        endpoint = {"event_types": [_ENDED], "name": "mine", "url": NOWHERE}
        return {
            "create_job": spec,
            "validate_job": spec,
            "create_sweep": sweep | {"spec": sweep["spec"] | {"model": "model:canary-model"}},
            "create_fine_tuning_job": tuned | {"training_file": self.ids["file_id"]},
            "create_chat_completion": tuned | {"messages": [{"role": "user", "content": "Hi"}]},
            "create_completion": tuned | {"prompt": "Hi"},
            "create_embedding": tuned | {"input": "Hi"},
            "complete_openai_upload": {"part_ids": ["part_0123"]},
            "create_checkpoint_permissions": {"project_ids": ["third"]},
            "create_webhook_endpoint": endpoint,
            "change_webhook_endpoint": endpoint,
            "test_webhook_endpoint": {"event_type": _ENDED},
        }


def _sweep_of(dataset_id: str) -> dict[str, Any]:
    rates = {"type": "choice", "values": [1e-5, 1e-4]}
    data = {"train": f"dataset:{dataset_id}", "eval": 0.1}
    spec = spec_of(dataset_id, data=data)
    return {"spec": spec, "space": {"/training/learning_rate": rates}, "name": "canary-sweep"}


def made(client: httpx.Client, path: str, **sent: Any) -> dict[str, Any]:
    """Return what a POST has made."""
    answer = client.post(path, **sent)
    assert answer.is_success, answer.text
    return dict(answer.json())


def train(door: Door, job_id: str) -> None:
    """Bring a job to its end as a worker does, with a file and a checkpoint."""
    job = claim(door.backends)
    assert job.id == job_id
    with door.backends.database.transaction() as tx:
        checkpoints.begin(
            tx,
            job.id,
            attempt=job.attempt,
            step=_STEP,
            key=f"checkpoints/{job.id}/{_STEP}",
            files=[{"path": "canary.json", "size_bytes": 2, "sha256": "0" * 64}],
            metrics={},
            is_best=True,
        )
        checkpoints.complete(tx, job.id, attempt=job.attempt, step=_STEP, keep=1)
    succeed(door.backends, job, {"canary.json": b"{}"})
