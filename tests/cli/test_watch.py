"""watch and logs: lines, JSON lines, a bar on a terminal, and Ctrl-C."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import luthier
from jobs.backends import Backends
from jobs.records import Job
from jobs.store import attempts, events
from jobs.store.events import NewEvent
from tests.api.conftest import claim, say, succeed
from tests.cli.conftest import Run
from tests.client.conftest import submit
from trainer_core.events import EventType

pytestmark = pytest.mark.slow

FILES = {"config.json": b"{}"}

# What a shell starts in the background ignores SIGINT, and so would these tests' children.
HEARS_CTRL_C = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from luthier.cli.main import cli
cli()
"""


def train(backends: Backends, job: Job, *, num_steps: int = 50) -> None:
    """Say what a training says, and succeed."""
    tell(backends, job, EventType.PHASE, phase="training", fraction=0.0)
    for step in range(1, num_steps + 1):
        progress = {"step": step, "max_steps": num_steps, "epoch": 0.1, "num_tokens": step}
        tell(backends, job, EventType.PROGRESS, **progress, loss=1 / step, eta_seconds=61.0)
    figures = {"accuracy": 0.912345, "loss": 0.25}
    tell(backends, job, EventType.METRICS, split="eval", step=50, epoch=1.0, metrics=figures)
    tell(backends, job, EventType.WARNING, code="w", message="[b]odd\x1b[2J[/b]", hint="Look.")
    succeed(backends, job, FILES)


def tell(backends: Backends, job: Job, kind: EventType, **data: Any) -> None:
    with backends.database.transaction() as tx:
        events.append(tx, job.id, [NewEvent(kind, data)])


def test_watch_prints_plain_lines_without_a_terminal(
    run: Run, client: luthier.Client, rows: Path, backends: Backends
) -> None:
    submit(client, rows)
    job = claim(backends)
    training = threading.Thread(target=train, args=(backends, job))
    training.start()

    result = run("watch", job.id)
    training.join()

    assert (result.exit_code, result.stdout) == (0, "")
    lines = result.stderr.splitlines()
    assert lines[0] == "queued (submitted)"
    assert "training" in lines
    assert "step 50/50, loss 0.02, 1 min 01 s left" in lines
    assert len([line for line in lines if line.startswith("step ")]) <= 11
    assert "eval at step 50: accuracy 0.9123, loss 0.25" in lines
    assert "warning: [b]odd\\x1b[2J[/b] Look." in lines
    assert any(line.startswith(f"{job.id} succeeded") for line in lines)
    assert lines[-1] == f"next: luthier download {job.id}"


def test_watch_json_prints_each_event_as_a_line(
    run: Run, client: luthier.Client, rows: Path, backends: Backends
) -> None:
    submit(client, rows)
    job = claim(backends)
    train(backends, job, num_steps=3)

    result = run("watch", job.id, "--json")

    seen = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["id"] for event in seen] == list(range(1, 10))
    assert seen[-1]["data"]["state"] == "succeeded"
    assert result.exit_code == 0


def test_watch_of_a_cancelled_job_ends_with_3(run: Run, client: luthier.Client, rows: Path) -> None:
    job = submit(client, rows)
    client.jobs.cancel(job.id)

    assert run("watch", job.id).exit_code == 3


def test_watch_of_a_paused_job_says_how_it_goes_on_and_goes_on_watching(
    run: Run, client: luthier.Client, rows: Path
) -> None:
    job = submit(client, rows)
    client.jobs.pause(job.id)

    def end() -> None:
        time.sleep(1)
        client.jobs.cancel(job.id)

    ending = threading.Thread(target=end)
    ending.start()
    result = run("watch", job.id)
    ending.join()

    assert result.exit_code == 3
    lines = result.stderr.splitlines()
    assert lines[:3] == [
        "queued (submitted)",
        "paused (paused by request)",
        f"next: luthier resume {job.id}",
    ]


def test_submit_and_follow_ends_with_the_outcome(
    run: Run, client: luthier.Client, rows: Path, backends: Backends
) -> None:
    dataset = client.datasets.upload(rows)
    spec = {"task": "text-classification", "model": "hub:org/encoder"}

    def work() -> None:
        job = None
        while job is None:
            time.sleep(0.05)
            with backends.database.transaction() as tx:
                job = attempts.claim(tx, worker="worker-1", lease_seconds=60)
        train(backends, job, num_steps=3)

    training = threading.Thread(target=work)
    training.start()
    train_on = f"data.train=dataset:{dataset.id}"
    result = run("submit", "-", "--set", train_on, "--follow", stdin=json.dumps(spec))
    training.join()

    assert result.exit_code == 0
    assert client.jobs.get(result.stdout.strip()).state == "succeeded"
    assert "eval at step 50" in result.stderr


def test_watch_shows_a_bar_on_a_terminal(
    url: str, client: luthier.Client, rows: Path, backends: Backends
) -> None:
    submit(client, rows)
    job = claim(backends)
    train(backends, job)

    code, shown = _on_terminal(url, "watch", job.id)

    assert code == 0
    assert "50/50" in shown
    assert "━" in shown
    assert "accuracy 0.9123" in shown
    assert "[b]odd" in shown
    assert "\x1b[2J" not in shown


def test_interrupted_watch_leaves_the_job_running_and_says_so(
    url: str, client: luthier.Client, rows: Path, backends: Backends
) -> None:
    submit(client, rows)
    job = claim(backends)
    watching = subprocess.Popen(
        [sys.executable, "-c", HEARS_CTRL_C, "watch", job.id],
        env={**os.environ, "LUTHIER_URL": url},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stderr is not None
    first = watching.stderr.readline()

    watching.send_signal(signal.SIGINT)
    _, rest = watching.communicate(timeout=20)

    assert first == "queued (submitted)\n"
    assert watching.returncode == 130
    assert f"{job.id} goes on" in rest
    assert f"luthier cancel {job.id}" in rest
    assert "Traceback" not in rest
    assert client.jobs.get(job.id).state == "running"


def test_logs_print_the_end_and_stop(
    run: Run, client: luthier.Client, rows: Path, backends: Backends
) -> None:
    job = submit(client, rows)
    say(backends, job.id, "one", "two", "thr\x1bee")

    last_words = [line.split()[-1] for line in run("logs", job.id).stdout.splitlines()]
    tail = run("logs", job.id, "--tail", "1")
    program = run("logs", job.id, "--json", "--tail", "2")

    assert last_words == ["one", "two", "thr\\x1bee"]
    assert len(tail.stdout.splitlines()) == 1
    assert [json.loads(line)["data"]["message"] for line in program.stdout.splitlines()] == [
        "two",
        "thr\x1bee",
    ]


def test_followed_logs_end_with_the_job_and_read_as_the_service_writes_them(
    run: Run, client: luthier.Client, rows: Path, backends: Backends
) -> None:
    submit(client, rows)
    job = claim(backends)
    say(backends, job.id, "early")

    def go_on() -> None:
        time.sleep(0.5)
        say(backends, job.id, "la\nte")
        tell(backends, job, EventType.WARNING, code="w", message="odd.", hint="Look.")
        succeed(backends, job, FILES)

    working = threading.Thread(target=go_on)
    working.start()
    followed = run("logs", job.id, "-f")
    working.join()

    assert followed.exit_code == 0
    words = [line.split(maxsplit=1)[1] for line in followed.stdout.splitlines()]
    assert words == ["LOG early", "LOG la\\x0ate", "WARNING odd. Look."]
    assert words == [line.split(maxsplit=1)[1] for line in run("logs", job.id).stdout.splitlines()]


def _on_terminal(url: str, *args: str) -> tuple[int, str]:
    """Run a command whose stderr is a terminal; return its exit code and what was shown."""
    near, far = pty.openpty()
    environment = {**os.environ, "LUTHIER_URL": url, "TERM": "xterm", "COLUMNS": "120"}
    running = subprocess.Popen(
        [sys.executable, "-m", "luthier", *args], env=environment, stderr=far, stdout=far
    )
    os.close(far)
    shown = b""
    while True:
        try:
            chunk = os.read(near, 65536)
        except OSError:  # Linux's way to say that the last writer is gone
            break
        if not chunk:
            break
        shown += chunk
    os.close(near)
    return running.wait(timeout=20), shown.decode()
