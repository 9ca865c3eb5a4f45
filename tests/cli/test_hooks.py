"""webhooks and sweeps."""

import ipaddress
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click.testing
import pytest

import luthier
from jobs.settings import Settings
from tests.cli.conftest import Run, command
from tests.receiver import Receiver
from tests.scripted_server import Answer, ScriptedServer

SWEEP: dict[str, Any] = {
    "id": "sweep_1",
    "name": "rates",
    "state": "running",
    "plan": {},
    "num_trials": {"running": 1, "succeeded": 1},
    "best": {
        "number": 0,
        "params": {"/training/learning_rate": 1e-4},
        "value": 0.91,
        "job_id": "job_1",
        "model": "job:job_1",
    },
    "created_at": "2026-01-02T03:04:05Z",
    "trials": [
        {
            "number": 0,
            "params": {"/training/learning_rate": 1e-4},
            "job_id": "job_1",
            "state": "succeeded",
            "value": 0.91,
            "measured": {"10": 0.91},
            "created_at": "2026-01-02T03:04:05Z",
        }
    ],
}


@pytest.fixture
def service_settings(service_settings: Settings) -> Settings:
    loopback = (ipaddress.ip_network("127.0.0.0/8"),)
    return service_settings.model_copy(
        update={"webhook_networks": loopback, "webhook_seconds": 3600}
    )


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.mark.slow
def test_webhook_is_added_tested_changed_and_forgotten(run: Run, receiver: Receiver) -> None:
    added = run("webhooks", "add", receiver.url, "--event", "job.failed", "--name", "pager")
    secret = added.stdout.strip()
    (listed,) = json.loads(run("webhooks", "ls", "--json").stdout)
    hook = listed["id"]

    assert listed["secret"] is None
    assert (listed["name"], listed["event_types"]) == ("pager", ["job.failed"])
    tested = run("webhooks", "test", hook, "--event", "job.failed")
    assert (tested.exit_code, tested.stdout.split()[1:]) == (0, ["delivered", "200"])
    (request,) = receiver.received
    event = luthier.verify_webhook(request.body, request.headers, secret)
    assert (event.type, event.data["is_test"]) == ("job.failed", True)

    sent = run("webhooks", "deliveries", hook)
    assert event.id in sent.stdout
    assert run("webhooks", "redeliver", hook, event.id).stdout == f"{event.id} pending\n"
    assert run("webhooks", "rotate", hook).stdout.strip() not in {"", secret}
    assert run("webhooks", "edit", hook, "--off").exit_code == 0
    assert "off" in run("webhooks", "ls").stdout
    assert run("webhooks", "edit", hook).exit_code == 2
    assert run("webhooks", "rm", "-y", hook).exit_code == 0
    assert run("webhooks", "ls", "--json").stdout == "[]\n"


@pytest.mark.slow
def test_test_of_a_webhook_that_refuses_ends_with_1(run: Run) -> None:
    with Receiver(lambda _: 500) as receiver:
        run("webhooks", "add", receiver.url)
        (hook,) = json.loads(run("webhooks", "ls", "--json").stdout)

        assert run("webhooks", "test", hook["id"]).exit_code == 1


def on_script(*answers: Answer, args: tuple[str, ...]) -> click.testing.Result:
    with ScriptedServer(answers) as server:
        return command(server.url)(*args)


def test_sweep_is_started_with_settings(tmp_path: Path) -> None:
    plan = tmp_path / "sweep.json"
    plan.write_text("{}")
    result = on_script(
        Answer(201, SWEEP), args=("sweeps", "start", str(plan), "--set", "max_trials=4")
    )

    assert (result.exit_code, result.stdout) == (0, "sweep_1\n")
    assert "next: luthier sweeps show sweep_1" in result.stderr


def test_sweep_is_shown_with_its_trials_and_the_best_model() -> None:
    result = on_script(Answer(body=SWEEP), args=("sweeps", "show", "sweep_1"))

    assert result.stdout.splitlines()[-1].split() == [
        *("0", "succeeded", "0.91", "/training/learning_rate", "0.0001", "job_1")
    ]
    assert "next: luthier download job_1" in result.stderr
    listed = on_script(
        Answer(body={"data": [SWEEP], "has_more": False}), args=("sweeps", "ls", "--json")
    )
    assert json.loads(listed.stdout)[0]["best"]["value"] == 0.91


@pytest.mark.parametrize(("state", "code"), [("succeeded", 0), ("failed", 1), ("cancelled", 3)])
def test_exit_code_of_waiting_is_the_outcome_of_the_sweep(state: str, code: int) -> None:
    ended = {**SWEEP, "state": state, "finished_at": "2026-01-02T04:04:05Z"}

    assert on_script(Answer(body=ended), args=("sweeps", "wait", "sweep_1")).exit_code == code
