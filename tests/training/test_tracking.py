"""Trackers get the figures of a run, by their own readers, and can't harm it."""

import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from transformers import PreTrainedTokenizerBase

from tests.training.tiny import (
    carry_out,
    colour_rows,
    events_of,
    make_run,
    save_encoder,
    stop_after,
)
from trainer_core.events import ListReporter, MetricsMeasured, Phase, PhaseEntered, Warned
from trainer_core.run_directory import Result, RunDirectory, verified_manifest
from trainer_core.training.loop import tracking
from trainer_core.training.loop.trackers import TRACKERS, TrackedRun
from trainer_core.training.loop.tracking import Tracking

pytestmark = pytest.mark.slow

TRAINING = {"epochs": 2, "learning_rate": 1e-3, "batch_size": 8, "log_steps": 1}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("models") / "encoder")


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "MLFLOW_TRACKING_URI", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)


def _make(folder: Path, encoder: Path, *trackers: str, **parts: Any) -> RunDirectory:
    spec = {
        "task": "text-classification",
        "name": "colours",
        "training": TRAINING,
        "tracking": trackers,
        "labels": {"team": "support"},
        **parts,
    }
    return make_run(folder, model=encoder, rows=colour_rows(42), spec=spec)


def _told(directory: RunDirectory) -> dict[tuple[str, int], float]:
    """Return (name, step) -> value of all figures that the run told, the latest ones."""
    return {
        (f"{line.data['split']}/{name}", line.data["step"]): value
        for line in events_of(directory, "metrics")
        for name, value in line.data["metrics"].items()
    }


def _scalars(folder: Path) -> dict[tuple[str, int], float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder)).Reload()
    found = [(tag, event) for tag in reader.Tags()["scalars"] for event in reader.Scalars(tag)]
    steps = [(tag, event.step) for tag, event in found]
    assert len(set(steps)) == len(steps), "a step is there twice"
    return {(tag, event.step): event.value for tag, event in found}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_stopped_run_is_one_run_in_tensorboard_and_comes_with_the_model(
    encoder: Path, tmp_path: Path
) -> None:
    directory = _make(tmp_path / "run", encoder, "tensorboard")
    assert stop_after(directory, step=3).result is Result.STOPPED
    assert carry_out(directory).result is Result.SUCCEEDED
    folder = directory.model / "tracking" / "tensorboard"
    told = _told(directory)
    assert ("train/loss", 10) in told
    assert ("eval/accuracy", 10) in told
    assert _scalars(folder) == pytest.approx(told, rel=1e-6)
    manifest = verified_manifest(directory.model)
    assert manifest is not None
    files = [file.path for file in manifest if file.path.startswith("tracking/")]
    assert len(files) == 2  # one an attempt
    assert not any(platform.node() in file for file in files)


@pytest.fixture
def mlflow_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    pytest.importorskip("mlflow")
    address = (tmp_path / "mlflow").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return address  # type: ignore[return-value]


@pytest.mark.filterwarnings("ignore")
def test_a_stopped_run_is_one_run_in_mlflow(
    encoder: Path, tmp_path: Path, mlflow_server: str
) -> None:
    from mlflow import MlflowClient

    directory = _make(tmp_path / "run", encoder, "mlflow")
    assert stop_after(directory, step=3).result is Result.STOPPED
    client = MlflowClient(mlflow_server)
    experiment = client.get_experiment_by_name("luthier")
    assert experiment is not None
    [stopped] = client.search_runs([experiment.experiment_id])
    assert stopped.info.status == "KILLED"
    assert carry_out(directory).result is Result.SUCCEEDED
    [run] = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "colours")
    assert run.data.params["training.learning_rate"] == "0.001"
    assert run.data.params["training.micro_batch_size"] == "8"  # as it was resolved
    assert run.data.tags["team"] == "support"
    losses = {m.step: m.value for m in client.get_metric_history(run.info.run_id, "train/loss")}
    told = {step: value for (name, step), value in _told(directory).items() if name == "train/loss"}
    assert losses == pytest.approx(told)


@pytest.mark.filterwarnings("ignore")
def test_wandb_without_a_key_leaves_files_to_sync_that_name_no_machine(
    encoder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("wandb")
    directory = _make(tmp_path / "run", encoder, "wandb")
    assert carry_out(directory).result is Result.SUCCEEDED
    assert not events_of(directory, "warning")
    # While it lives, the last of the figures may not be in the file that the model got.
    assert not [one for one in psutil.Process().children() if "wandb" in one.name()]
    [file] = (directory.model / "tracking").rglob("*.wandb")
    # The records of the file are protocol buffers, each of which names its metric in clear.
    written = file.read_bytes()
    for name in (b"train/loss", b"eval/accuracy", b"colours", b"team=support"):
        assert name in written
    everything = b"".join(
        path.read_bytes() for path in (directory.model / "tracking").rglob("*") if path.is_file()
    )
    assert str(tmp_path).encode() not in everything


def test_a_package_that_is_missing_is_told_with_the_extra_that_brings_it(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    directory = _make(tmp_path / "run", encoder, "trackio", "mlflow")
    assert carry_out(directory).result is Result.SUCCEEDED
    warnings = [line.data for line in events_of(directory, "warning")]
    assert [warning["code"] for warning in warnings] == ["tracker_failed"] * 2
    by_name = {warning["message"].split()[0]: warning for warning in warnings}
    assert "'trackio' is not installed" in by_name["trackio"]["message"]
    assert "luthier[trackio]" in by_name["trackio"]["hint"]
    assert "MLFLOW_TRACKING_URI is not set" in by_name["mlflow"]["message"]


def _run(folder: Path) -> TrackedRun:
    return TrackedRun(name="a", identity="a", first_step=0, parameters={}, labels={}, folder=folder)


def _figures(step: int) -> MetricsMeasured:
    return MetricsMeasured(split="train", step=step, epoch=0.0, metrics={"loss": 1.0})


class Failing:
    """A tracker whose server goes away at the second event."""

    def __init__(self, _run: TrackedRun) -> None:
        self.seen = 0

    def report(self, _measured: MetricsMeasured) -> None:
        self.seen += 1
        if self.seen == 2:
            raise ConnectionError("https://me:p@ss/word@host:5000/api is gone: //me:pass@host")

    def close(self, _result: Result) -> None:
        raise AssertionError("a tracker that failed is left alone")


class Hanging(Failing):
    """A tracker whose server never answers."""

    def report(self, _measured: MetricsMeasured) -> None:
        time.sleep(3600)


class Noting:
    """A tracker that keeps all that it is told."""

    told: list[object]

    def __init__(self, _run: TrackedRun) -> None:
        Noting.told = []

    def report(self, measured: MetricsMeasured) -> None:
        self.told.append(measured)

    def close(self, result: Result) -> None:
        self.told.append(result)


def test_a_run_whose_model_can_not_be_saved_is_told_as_failed(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(*_: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setitem(TRACKERS, "wandb", Noting)  # type: ignore[arg-type]
    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", save)
    directory = _make(tmp_path / "run", encoder, "wandb", checkpoints={"strategy": "no"})
    assert carry_out(directory).result is Result.FAILED
    assert Noting.told[-1] is Result.FAILED
    assert Result.SUCCEEDED not in Noting.told


def test_trackers_are_told_figures_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRACKERS, "wandb", Noting)  # type: ignore[arg-type]
    trackers = Tracking(ListReporter())
    trackers.begin(["wandb"], _run(tmp_path))
    trackers.report(_figures(1))
    trackers.report(PhaseEntered(Phase.SAVING))
    trackers.close(Result.SUCCEEDED)
    assert Noting.told == [_figures(1), Result.SUCCEEDED]


def test_a_tracker_that_fails_on_the_way_is_told_once_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(TRACKERS, "wandb", Failing)  # type: ignore[arg-type]
    told = ListReporter()
    trackers = Tracking(told)
    trackers.begin(["wandb"], _run(tmp_path))
    for step in range(5):
        trackers.report(_figures(step))
    trackers.close(Result.SUCCEEDED)
    [warning] = told.events
    assert isinstance(warning, Warned)
    assert warning.code == "tracker_failed"
    assert warning.message == "wandb gets no further figures of this run: ConnectionError."
    logged = capfd.readouterr().err
    assert logged == "wandb: ConnectionError: https://host:5000/api is gone: //host\n"


def test_a_tracker_that_hangs_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TRACKERS, "wandb", Hanging)  # type: ignore[arg-type]
    monkeypatch.setattr(tracking, "_CLOSING_SECONDS", 0.2)
    told = ListReporter()
    trackers = Tracking(told)
    trackers.begin(["wandb"], _run(tmp_path))
    began = time.monotonic()
    for step in range(100):
        trackers.report(_figures(step))
    trackers.close(Result.STOPPED)
    assert time.monotonic() - began < 5
    assert "did not end within" in str(told.events)
