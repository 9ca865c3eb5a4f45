"""Disks that are full or fail: a real small file system, and real system calls that fail."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.training import faulty_save
from tests.training.tiny import carry_out, colour_rows, events_of, make_run, save_encoder
from trainer_core.errors import DiskFull, TypedError
from trainer_core.events import CheckpointSaved, Event
from trainer_core.run_directory import Result, RunDirectory, read_json, verified_manifest
from trainer_core.spec import parse_spec
from trainer_core.training.models.base_model import open_model
from trainer_core.training.process.directories import whole_or_absent
from trainer_core.training.process.stopping import Stopping
from trainer_core.training.room import Need, check_room, estimate_need
from trainer_core.training.run import run

pytestmark = pytest.mark.slow

NUM_ROWS = 42
TWO_EPOCHS = {"epochs": 2, "learning_rate": 1e-3, "batch_size": 8}  # saves after 5 and 10 steps
SPEC = {"task": "text-classification", "training": TWO_EPOCHS}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("models") / "encoder")


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of a few megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a file system can't be mounted here: that needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _make(folder: Path, encoder: Path) -> RunDirectory:
    return make_run(folder, model=encoder, rows=colour_rows(NUM_ROWS), spec=SPEC)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_estimate_is_a_little_less_than_what_a_run_saves(encoder: Path, tmp_path: Path) -> None:
    directory = _make(tmp_path / "run", encoder)
    assert carry_out(directory).result is Result.SUCCEEDED
    spec = parse_spec(read_json(directory.resolved)["spec"])
    need = estimate_need(spec, open_model(encoder), num_train_rows=NUM_ROWS - 4)
    checkpoint = _size(directory.checkpoints / "checkpoint-10")
    assert 0.7 * checkpoint < need.checkpoint_bytes < checkpoint
    assert 0.7 * _size(directory.model) < need.model_bytes < _size(directory.model)
    assert need.num_checkpoints == 2


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"checkpoints": {"strategy": "no"}}, 0),
        ({"checkpoints": {"strategy": "steps", "steps": 2, "keep": 3}}, 4),
        ({"checkpoints": {"strategy": "steps", "steps": 4, "keep": 3}}, 2),
        ({"evaluation": {"strategy": "steps", "steps": 1}}, 3),
        ({"adapter": {}}, 0),
    ],
)
def test_as_many_checkpoints_are_counted_as_are_there_at_once(
    encoder: Path, changes: dict[str, object], expected: int
) -> None:
    data = {"train": "dataset:ds_0123456789ab"}
    spec = parse_spec({"model": "model:tiny", "data": data, **SPEC, **changes})
    need = estimate_need(spec, open_model(encoder), num_train_rows=NUM_ROWS - 4)
    assert need.num_checkpoints == expected


def test_what_is_there_already_need_not_fit_again(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(DiskFull, match="checkpoints of"):
        check_room(Need(free, 1, 1 << 30), folder=tmp_path)
    (tmp_path / "checkpoint-1").mkdir()
    with (tmp_path / "checkpoint-1" / "file").open("wb") as file:
        file.truncate(free)  # of no blocks: its length counts
    check_room(Need(free // 2, 1, 1 << 20), folder=tmp_path)


@pytest.mark.parametrize("small_disk", ["500k"], indirect=True)
def test_a_run_that_can_not_fit_is_refused_before_a_row_is_tokenized(
    encoder: Path, small_disk: Path
) -> None:
    directory = _make(small_disk / "run", encoder)
    error = carry_out(directory).error
    assert error is not None
    assert (error.code, error.whose, error.retryable) == ("disk_full", "capacity", True)
    assert error.detail["needed_bytes"] > error.detail["free_bytes"]
    assert "tokenizing" not in [line.data["phase"] for line in events_of(directory, "phase")]


class FillDisk:
    """A watcher that leaves hardly any room once the first checkpoint is saved."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def report(self, event: Event) -> None:
        ballast = self._folder / "ballast"
        if isinstance(event, CheckpointSaved) and not ballast.exists():
            ballast.write_bytes(b"x" * (shutil.disk_usage(self._folder).free - (100 << 10)))


@pytest.mark.parametrize("small_disk", ["8m"], indirect=True)
def test_a_disk_that_fills_up_in_a_save_leaves_the_checkpoint_before(
    encoder: Path, small_disk: Path
) -> None:
    directory = _make(small_disk / "run", encoder)
    watchers = [FillDisk(small_disk)]
    outcome = run(directory, stopping=Stopping(directory), watchers=watchers)
    assert isinstance(outcome.error, TypedError)
    assert (outcome.error.code, outcome.error.retryable) == ("disk_full", True)
    assert [path.name for path in directory.checkpoints.iterdir()] == ["checkpoint-5"]
    assert verified_manifest(directory.checkpoints / "checkpoint-5") is not None
    assert directory.read_outcome() == outcome
    (small_disk / "ballast").unlink()
    assert carry_out(directory).result is Result.SUCCEEDED
    assert "resuming from checkpoint-5" in [
        line.data["message"] for line in events_of(directory, "log")
    ]


@pytest.mark.parametrize(
    ("fault", "code"),
    [("fsync:error=EIO", "service_unavailable"), ("write:error=ENOSPC", "disk_full")],
)
def test_every_call_of_a_save_may_fail_and_the_checkpoint_before_is_whole(
    tmp_path: Path, fault: str, code: str
) -> None:
    if shutil.which("strace") is None:
        pytest.skip("there is no strace here")
    for number in range(1, 30):
        folder = tmp_path / str(number)
        with whole_or_absent(folder / "checkpoint-1") as partial:
            (partial / "model").write_bytes(b"first")
        answer = _traced(folder, f"{fault}:when={number}")
        assert verified_manifest(folder / "checkpoint-1") is not None
        assert not list(folder.glob(".*"))
        newer = folder / "checkpoint-2"
        if answer in ("saved", ""):  # all is written; what failed is the telling, or nothing
            assert verified_manifest(newer) is not None
            if number > 4:  # three files and the manifest at the least
                return
            continue  # it was a library's, on being imported
        assert answer == code
        # Only the last sync, of the name itself, comes when everything is durable but the name.
        assert not newer.exists() or verified_manifest(newer) is not None
    pytest.fail("it never came to an end")


def _traced(folder: Path, fault: str) -> str:
    """Save in a process whose system call fails, once; an answer that can't be told is empty."""
    call = fault.partition(":")[0]
    strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
    ended = subprocess.run(
        [*strace, "-e", f"inject={fault}", sys.executable, "-m", faulty_save.__name__, str(folder)],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "strace: " in ended.stderr:
        pytest.skip(f"strace can't trace here: {ended.stderr}")
    return ended.stdout.strip()
