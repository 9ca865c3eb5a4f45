"""The command of a training process, started by tests and ended with them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from tests.training.tiny import events_of
from trainer_core.run_directory import RunDirectory

COMMAND = [sys.executable, "-m", "trainer_core.training"]
START_SECONDS = 240  # importing torch on a busy machine

Process = subprocess.Popen[bytes]
Start = Callable[..., Process]


@contextlib.contextmanager
def commands() -> Iterator[Start]:
    """Give a function that starts the command with arguments; what is left at the end is killed."""
    started: list[Process] = []

    def start(*arguments: str, **environment: str) -> Process:
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        )
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
            process.wait()


def order(spare: Process, directory: RunDirectory) -> None:
    """Give a supervised process its run as soon as it is ready."""
    assert spare.stdin is not None
    assert spare.stdout is not None
    assert spare.stdout.readline() == b"ready\n"
    spare.stdin.write(json.dumps({"run_dir": str(directory.path)}).encode() + b"\n")
    spare.stdin.flush()


def wait_for_step(directory: RunDirectory, *, step: int) -> None:
    """Wait until a run that goes on beside the test has come to a step."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if directory.outcome.exists():
            pytest.fail(f"it ended: {directory.outcome.read_text()}")
        if directory.events.exists() and any(
            line.data["step"] >= step for line in events_of(directory, "progress")
        ):
            return
        time.sleep(0.05)
    pytest.fail(f"step {step} did not come")
