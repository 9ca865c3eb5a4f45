"""`luthier push` and the client's calls, against a real service; what a worker does is played."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

import luthier
from jobs.backends import Backends
from jobs.store import pushes
from tests.api.conftest import claim, save, succeed
from tests.cli.conftest import Run
from tests.client.conftest import submit
from worker.pusher import _typed
from worker.uploading import Answer

pytestmark = pytest.mark.slow


def finished(client: luthier.Client, backends: Backends, rows: Path, **changes: Any) -> luthier.Job:
    client.secrets.set("hf", "hf_0123456789")
    job = submit(client, rows, **changes)
    succeed(backends, claim(backends), {"config.json": b"{}"})
    return job


def play_worker(backends: Backends, *, is_well: bool) -> None:
    with backends.database.transaction() as tx:
        push = pushes.claim(tx, lease_seconds=60)
        assert push is not None
        if is_well:
            pushes.succeed(tx, push, commit="c" * 40, url="https://hub/me/m")
        else:
            error = _typed(push, Answer(message="the Hub fails (503: no).", is_passing=True))
            pushes.fail(tx, push, error=error.to_dict())


def test_push_is_asked_for_and_shown(
    run: Run, client: luthier.Client, rows: Path, backends: Backends
) -> None:
    job = finished(client, backends, rows, secrets={"hf": "hf"})

    asked = run("push", job.id, "--repo", "me/m", "--branch", "v2", "--public")
    play_worker(backends, is_well=True)

    assert asked.exit_code == 0, asked.stderr
    assert "to me/m@v2, pending" in asked.stderr
    assert "pushed to me/m@v2, https://hub/me/m" in run("show", job.id).stdout
    push = client.jobs.wait_for_push(job.id)
    assert (push.state, push.private, push.commit) == ("pushed", False, "c" * 40)


def test_model_of_a_checkpoint_is_pushed(
    run: Run, client: luthier.Client, rows: Path, backends: Backends
) -> None:
    client.secrets.set("hf", "hf_0123456789")
    job = submit(client, rows, secrets={"hf": "hf"})
    save(backends, claim(backends), 40, {"config.json": b"{}"})

    asked = run("push", job.id, "--checkpoint", "40", "--repo", "me/m")
    play_worker(backends, is_well=True)
    refused = run("push", job.id, "--checkpoint", "41", "--repo", "me/m")

    assert asked.exit_code == 0, asked.stderr
    assert "checkpoint-40 to me/m, pending" in asked.stderr
    assert "checkpoint-40 pushed to me/m, https://hub/me/m" in run("show", job.id).stdout
    assert client.jobs.wait_for_push(job.id).checkpoint == "checkpoint-40"
    assert "no stored checkpoint of step 41" in refused.stderr
    with pytest.raises(luthier.NotFound):
        job.push(checkpoint=41, repo="me/m")


def test_push_that_is_waited_for_is_the_one_that_was_asked_for(
    run: Run, client: luthier.Client, rows: Path, backends: Backends
) -> None:
    client.secrets.set("hf", "hf_0123456789")
    job = submit(client, rows, secrets={"hf": "hf"})
    claimed = claim(backends)
    for step in (40, 80):
        save(backends, claimed, step, {"config.json": b"{}"})
    first = job.push(checkpoint=40, repo="me/m")
    job.push(checkpoint=80, repo="me/m")

    play_worker(backends, is_well=False)
    failed = client.jobs.wait_for_push(job.id, number=first.number, timeout=10)
    with pytest.raises(luthier.WaitTimedOut):
        client.jobs.wait_for_push(job.id, timeout=0.2)
    again = threading.Timer(1, lambda: [play_worker(backends, is_well=True) for _ in range(2)])
    again.start()
    asked = run("push", job.id, "--checkpoint", "40", "--repo", "me/m", "--wait")
    again.join()

    assert (failed.number, failed.state) == (1, "failed")
    assert asked.exit_code == 0
    assert "checkpoint-40 pushed" in asked.stderr


def test_exit_code_of_a_push_that_is_waited_for_is_its_outcome(
    run: Run, client: luthier.Client, rows: Path, backends: Backends
) -> None:
    job = finished(client, backends, rows)
    asked = job.push(repo="me/m", secret="hf")
    threading.Timer(0.5, play_worker, (backends,), {"is_well": False}).start()
    failed = client.jobs.wait_for_push(job.id)
    refused = run("push", job.id)
    late = run("push", job.id, "--repo", "me/m", "--secret", "hf", "--wait", "--timeout", "0.5")

    assert (asked.state, failed.state) == ("pending", "failed")
    assert failed.error is not None
    assert failed.error.code == "push_failed"
    assert (refused.exit_code, late.exit_code) == (1, 5)
    assert "repo: is required" in refused.stderr
    threading.Timer(0.5, play_worker, (backends,), {"is_well": False}).start()
    assert client.jobs.wait_for_push(job.id).number == 2
    threading.Timer(0.5, play_worker, (backends,), {"is_well": False}).start()
    told = run("push", job.id, "--repo", "me/m", "--secret", "hf", "--wait", "--json")
    assert told.exit_code == 1
    assert json.loads(told.stdout)["error"]["code"] == "push_failed"
