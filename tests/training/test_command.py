"""The command itself, in processes of its own; each one imports torch, so there are few."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.training.commands import (
    COMMAND,
    START_SECONDS,
    Start,
    commands,
    order,
    wait_for_step,
)
from tests.training.tiny import carry_out, colour_rows, make_run, save_encoder
from trainer_core.run_directory import (
    Result,
    RunDirectory,
    StopRequest,
    file_sha256,
    read_json,
    write_json,
)

pytestmark = pytest.mark.slow

LONG = {"epochs": 400, "learning_rate": 1e-4, "batch_size": 8}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("models") / "encoder")


@pytest.fixture
def start() -> Iterator[Start]:
    with commands() as begin:
        yield begin


def _make(folder: Path, encoder: Path, **training: Any) -> RunDirectory:
    spec = {"task": "text-classification", "training": {**LONG, **training}}
    return make_run(folder, model=encoder, rows=colour_rows(42), spec=spec)


def test_a_run_directory_is_carried_out_and_a_bad_one_gets_one_clear_line(
    encoder: Path, tmp_path: Path
) -> None:
    directory = _make(tmp_path / "run", encoder, epochs=1)
    done = subprocess.run(
        [*COMMAND, str(directory.path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    outcome = directory.read_outcome()
    assert outcome is not None
    assert outcome.result is Result.SUCCEEDED
    assert "step 5, eval: loss" in done.stdout

    bad = _make(tmp_path / "bad", encoder)
    spec = read_json(bad.spec)
    write_json(bad.spec, {**spec, "data": {**spec["data"], "columns": {"label": "intent"}}})
    failed = subprocess.run([*COMMAND, str(bad.path)], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    lines = failed.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("unknown_column: no column 'intent' in train.jsonl")
    error = read_json(bad.outcome)["error"]
    assert (error["code"], error["param"]) == ("unknown_column", "intent")


def test_a_supervised_run_stops_with_a_checkpoint_and_is_finished_by_another(
    encoder: Path, tmp_path: Path, start: Start
) -> None:
    first, second = start("--supervised"), start("--supervised")  # both warm up at once
    directory = _make(tmp_path / "run", encoder, epochs=20)
    order(first, directory)
    wait_for_step(directory, step=1)
    directory.request_stop(StopRequest("drained", is_saving=True))
    first.send_signal(signal.SIGINT)  # a Ctrl-C in the terminal is not for it
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=60) == 75
    stopped = directory.read_outcome()
    assert stopped is not None
    assert stopped.result is Result.STOPPED
    assert 1 <= stopped.step < 100
    assert (directory.path / (stopped.checkpoint or "none")).is_dir()
    assert directory.log.is_file()  # where its output goes once it has a job

    order(second, directory)
    assert second.wait(timeout=START_SECONDS) == 0
    whole = _make(tmp_path / "whole", encoder, epochs=20)
    assert carry_out(whole).result is Result.SUCCEEDED
    hashes = [file_sha256(run.model / "model.safetensors") for run in (directory, whole)]
    assert hashes[0] == hashes[1]


def test_a_run_dies_with_its_supervisor_and_a_spare_goes_quietly(
    encoder: Path, tmp_path: Path, start: Start
) -> None:
    busy, spare = start("--supervised"), start("--supervised")
    directory = _make(tmp_path / "run", encoder)
    order(busy, directory)
    assert spare.stdin is not None
    spare.stdin.close()
    assert spare.wait(timeout=START_SECONDS) == 0
    wait_for_step(directory, step=1)
    assert busy.stdin is not None
    busy.stdin.close()
    assert busy.wait(timeout=10) == -signal.SIGKILL
    assert not directory.outcome.exists()


def test_ctrl_c_saves_and_the_same_command_goes_on(
    encoder: Path, tmp_path: Path, start: Start
) -> None:
    directory = _make(tmp_path / "run", encoder, epochs=20)
    process = start(str(directory.path), "--quiet")
    wait_for_step(directory, step=1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 75
    stopped = directory.read_outcome()
    assert stopped is not None
    assert 1 <= stopped.step < 100
    assert stopped.checkpoint == f"checkpoints/checkpoint-{stopped.step}"

    again = start(str(directory.path))
    told, _ = again.communicate(timeout=START_SECONDS)
    assert again.returncode == 0
    assert f"resuming from checkpoint-{stopped.step}" in told.decode()
    whole = _make(tmp_path / "whole", encoder, epochs=20)
    assert carry_out(whole).result is Result.SUCCEEDED
    hashes = [file_sha256(run.model / "model.safetensors") for run in (directory, whole)]
    assert hashes[0] == hashes[1]
