"""Training processes, executed and forked: one contract; and what they get of the environment."""

import contextlib
import os
import resource
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from trainer_core.run_directory import RunDirectory, write_json
from worker.process import Limits, TrainingProcess, environment_of

pytestmark = pytest.mark.slow

_SECRET_VARIABLES = (
    "LUTHIER_DATABASE_URL", "LUTHIER_REDIS_URL", "LUTHIER_STORAGE_URL", "LUTHIER_API_KEY",
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID", "GOOGLE_APPLICATION_CREDENTIALS", "PGPASSWORD", "CELERY_BROKER_URL",
)  # fmt: skip
SECONDS = 120  # importing torch takes most of it, on a slow machine


@pytest.fixture(params=["executed", "forked"])
def start(request, tmp_path):
    """Start training processes in one of the two ways."""
    server = request.getfixturevalue("fork_server") if request.param == "forked" else None
    started = []

    def begin():
        process = TrainingProcess(
            log=tmp_path / "log.txt",
            num_threads=1,
            fork_server=server,
            limits=Limits(open_files=300, file_bytes=1 << 30),
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()


def assert_soon(condition, *, seconds=SECONDS):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def is_alive(pid):
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_it_takes_its_job_prints_to_its_log_and_says_how_it_ended(start, tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    write_json(run.spec, {"task": "no-such-task"})
    process = start()
    assert os.getpgid(process.pid) == process.pid
    assert process.poll() is None
    process.start(run.path, trackers=[], secrets={})
    assert_soon(lambda: process.poll() is not None)
    assert process.kill() == 1
    assert "no-such-task" in run.log.read_text()
    assert run.read_outcome().error.code == "invalid_spec"


def test_a_killed_one_says_by_which_signal(start):
    process = start()
    os.kill(process.pid, signal.SIGSEGV)
    assert_soon(lambda: process.poll() is not None)
    assert process.kill() == -signal.SIGSEGV


def test_several_live_at_once_and_each_ends_alone(start):
    first, second = start(), start()
    assert first.pid != second.pid
    assert first.kill() == -signal.SIGKILL
    assert second.poll() is None
    assert is_alive(second.pid)
    assert not is_alive(first.pid)


def test_it_ends_when_whoever_started_it_has_died(start, tmp_path):
    process = start()
    assert_soon(lambda: b"ready" in (tmp_path / "log.txt").read_bytes())
    process._child.stdin.close()  # what the death of this process would do
    assert_soon(lambda: process.poll() is not None)
    assert process.kill() == 0  # it had no job yet


def test_it_and_its_children_have_limits_and_renounce_privileges(start, tmp_path):
    process = start()
    assert_soon(lambda: b"ready" in (tmp_path / "log.txt").read_bytes())
    assert resource.prlimit(process.pid, resource.RLIMIT_CORE) == (0, 0)
    assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (300, 300)
    assert resource.prlimit(process.pid, resource.RLIMIT_FSIZE) == (1 << 30, 1 << 30)
    assert "NoNewPrivs:\t1\n" in Path(f"/proc/{process.pid}/status").read_text()


def test_nothing_secret_of_the_worker_reaches_it(tmp_path, monkeypatch):
    """N5: no database, no queue, no storage, no token."""
    secret = "canary-of-the-worker"
    for name in _SECRET_VARIABLES:
        monkeypatch.setenv(name, secret)
    process = TrainingProcess(log=tmp_path / "log", num_threads=1, command=("sleep", "60"))
    environment = Path(f"/proc/{process.pid}/environ")
    assert_soon(lambda: b"OMP_NUM_THREADS=1" in environment.read_bytes())
    assert secret.encode() not in environment.read_bytes()
    assert secret.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    descriptors = []
    for path in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile: it has only just begun
            descriptors.append(str(path.readlink()))
    assert descriptors
    assert not [name for name in descriptors if name.startswith("socket:")]
    process.kill()


def test_a_fork_server_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(OSError, match="does not answer"):
        TrainingProcess(log=tmp_path / "log", num_threads=1, fork_server=tmp_path / "none")


def test_a_tracker_gets_its_own_variables_and_no_other(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "one")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.internal")
    monkeypatch.setenv("LUTHIER_DATABASE_URL", "postgresql://secret")
    given = environment_of(["tensorboard", "mlflow"])
    assert given["MLFLOW_TRACKING_URI"] == "http://mlflow.internal"
    assert not {"WANDB_API_KEY", "LUTHIER_DATABASE_URL"} & given.keys()
    assert environment_of([]) == {}
