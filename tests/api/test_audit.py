"""Every operation of the document that changes something, and its entry in the audit log."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network
from itertools import takewhile
from typing import Any

import httpx
import pytest

from jobs.backends import Backends
from jobs.settings import Settings
from tests.api.access import Door
from tests.api.conftest import serve, submit, upload
from tests.api.victim import Asked, Operation, Victim, made, operations_of, train
from tests.receiver import Receiver

pytestmark = pytest.mark.slow

CHANGE_NOTHING = {
    "validate_job", "validate_dataset", "predict",
    "create_chat_completion", "create_completion", "create_embedding",
    "run_grader", "validate_grader",
}  # fmt: skip
IN_PIECES = {"put_upload_part", "add_openai_upload_part"}
"""An upload is noted as it begins and as it ends, and not with each of ten thousand parts."""

THE_SAME = {
    "create_fine_tuning_job": "create_job",
    "cancel_fine_tuning_job": "cancel_job",
    "pause_fine_tuning_job": "pause_job",
    "resume_fine_tuning_job": "resume_job",
    "delete_openai_file": "delete_dataset",
    "create_openai_upload": "begin_upload",
    "cancel_openai_upload": "cancel_upload",
    "create_webhook_endpoint": "create_webhook",
    "change_webhook_endpoint": "change_webhook",
    "delete_webhook_endpoint": "delete_webhook",
    "rotate_webhook_endpoint_secret": "rotate_webhook_secret",
    "test_webhook_endpoint": "send_test_event",
    "complete_upload": "upload_dataset",
    "clone_job": "create_job",
    "retry_job": "create_job",
    "push_checkpoint": "push_model",
}
USED_UP = {
    "job_id": {
        "cancel_job", "pause_job", "resume_job",
        "cancel_fine_tuning_job", "pause_fine_tuning_job", "resume_fine_tuning_job",
    },
    "dataset_id": {"delete_dataset"},
    "file_id": {"delete_openai_file"},
    "model": {"delete_openai_model"},
    "key_id": {"rotate_key", "revoke_key"},
    "own_upload_id": {"complete_upload", "cancel_upload"},
    "upload_id": {"complete_openai_upload", "cancel_openai_upload"},
    "webhook_id": {
        "send_test_event", "test_webhook_endpoint", "delete_webhook", "delete_webhook_endpoint",
    },
}  # fmt: skip
ROWS = b"text,label\nx,a\ny,b\n"
OPENAIS_UPLOAD = {
    "bytes": len(ROWS), "filename": "x.csv", "mime_type": "text/csv", "purpose": "fine-tune",
}  # fmt: skip
BODIES = {
    "validate_job": {"task": "text-classification"},  # without a model nobody has to load one
    "push_model": {"repo": "me/m", "secret": "canary-model"},
    "push_checkpoint": {"repo": "me/m", "secret": "canary-model"},
    "begin_upload": {"name": "new.csv", "size_bytes": 3, "sha256": "1" * 64},
    "create_openai_upload": OPENAIS_UPLOAD,
    "register_model": {"name": "new-model", "hub": "org/x"},
}
"""What to send in place of an example that would change nothing here."""
ENDED = ["fine_tuning.job.failed"]


@pytest.fixture
def door(service_settings: Settings, backends: Backends) -> Iterator[Door]:
    changes = {"auth": "keys", "webhook_networks": (ip_network("127.0.0.0/8"),)}
    with serve(service_settings.model_copy(update=changes)) as url:
        yield Door(url, backends)


class Owner:
    """An operator with one of everything, and fresh things for what would use them up."""

    def __init__(self, door: Door, client: httpx.Client, receiver: Receiver) -> None:
        self.client, self.hook = client, {"url": receiver.url, "name": "h", "event_types": ENDED}
        spent = submit(client)
        train(door, spent)
        self.spent_model = client.get("/v1/models").json()["data"][-1]["id"]
        self.victim = Victim(door, client)

    def request(self, operation: Operation) -> Asked:
        """Return what changes something by an operation."""
        kept = dict(self.victim.ids)
        self.victim.ids |= self._fresh(operation)
        (asked, *_) = self.victim.requests(operation)
        self.victim.ids = kept
        path = asked.path.replace("/projects/canary-model", "/projects/third")
        body = BODIES.get(operation.name)
        if operation.name == "complete_openai_upload":
            body = {"part_ids": [self.part_id]}
        return replace(asked, path=path, sent={"json": body} if body else asked.sent)

    def _fresh(self, operation: Operation) -> dict[str, str]:
        """Return things that the operation may use up, in place of those that others need."""
        for kind, names in USED_UP.items():
            if operation.name in names:
                return {kind: getattr(self, f"_new_{kind}")()}
        if operation.name in ("retry_job", "delete_job"):
            job_id = self._new_job_id()
            made(self.client, f"/jobs/{job_id}/cancel")
            return {"job_id": job_id}
        return {}

    def _new_job_id(self) -> str:
        return submit(self.client)

    def _new_dataset_id(self) -> str:
        return upload(self.client)

    def _new_file_id(self) -> str:
        return upload(self.client).replace("ds_", "file-")

    def _new_model(self) -> str:
        return self.spent_model

    def _new_key_id(self) -> str:
        key = {"name": "k", "scopes": ["read"]}
        return str(made(self.client, "/keys", json=key)["id"])

    def _new_webhook_id(self) -> str:
        return str(made(self.client, "/webhooks", json=self.hook)["id"])

    def _new_own_upload_id(self) -> str:
        file = {
            "name": "a.csv", "size_bytes": len(ROWS), "sha256": hashlib.sha256(ROWS).hexdigest(),
        }  # fmt: skip
        upload_id = str(made(self.client, "/uploads", json=file)["id"])
        part = self.client.put(f"/uploads/{upload_id}/parts/1", files={"data": ROWS})
        part.raise_for_status()
        return upload_id

    def _new_upload_id(self) -> str:
        upload_id = str(made(self.client, "/v1/uploads", json=OPENAIS_UPLOAD)["id"])
        part = made(self.client, f"/v1/uploads/{upload_id}/parts", files={"data": ROWS})
        self.part_id = part["id"]
        return upload_id


def test_every_operation_that_changes_something_is_noted_once_with_who_did_it(
    door: Door, service_settings: Settings
) -> None:
    noted: dict[str, str] = {}
    others: set[str] = set()
    with door.client() as client, Receiver() as receiver:
        (me,) = client.get("/keys").json()["data"]
        owner = Owner(door, client, receiver)
        for operation in operations_of(service_settings):
            if operation.method in ("GET", "HEAD"):
                continue
            asked = owner.request(operation)
            (newest, *_) = entries(client)
            answer = asked.ask(client)
            new = [*takewhile(lambda one: one != newest, entries(client))]  # noqa: B023
            if operation.name in CHANGE_NOTHING | IN_PIECES:
                assert not new, asked
                continue
            assert answer.is_success, (asked, answer.text)
            mine = [one["action"] for one in new if one["key_id"] == me["id"]]
            assert len(mine) == 1, (asked, new)
            assert all(one["target"] for one in new), asked
            noted[operation.name] = mine[0]
            others |= {one["actor"].partition("_")[0] for one in new if one["key_id"] is None}

    assert len(noted) > 40
    assert others == {"sweep"}
    for openais, native in THE_SAME.items():
        assert noted[openais] == noted[native], openais


def entries(client: httpx.Client) -> list[dict[str, Any]]:
    return list(client.get("/audit?limit=100").json()["data"])
