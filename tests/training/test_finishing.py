"""What a finished run says of itself: gain over the base model, details, predictions, lineage."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.tiny import (
    carry_out,
    colour_rows,
    events_of,
    make_run,
    save_encoder,
    stop_after,
)
from trainer_core.events import Event, PhaseEntered
from trainer_core.run_directory import Result, RunDirectory, file_sha256, read_json, write_json
from trainer_core.training.loop.checkpoints import steps_saved
from trainer_core.training.process.stopping import Stopping
from trainer_core.training.recipes.recipe import Measured, Recipe
from trainer_core.training.run import run
from trainer_core.training.tasks import text_classification

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("models") / "encoder")


def _make(folder: Path, encoder: Path, **parts: Any) -> RunDirectory:
    training = {"epochs": 4, "learning_rate": 5e-3, **parts.pop("training", {})}
    spec = {"task": "text-classification", "training": training, **parts}
    return make_run(folder, model=encoder, rows=colour_rows(120), spec=spec)


@pytest.fixture(scope="module")
def finished(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    data = {"eval": 0.2, "test": 0.1}
    directory = _make(tmp_path_factory.mktemp("runs") / "run", encoder, data=data)
    assert carry_out(directory).result is Result.SUCCEEDED
    return directory


def test_a_job_says_what_it_gained(finished: RunDirectory) -> None:
    metrics = read_json(finished.outcome)["metrics"]
    first = events_of(finished, "metrics")[0].data
    assert (first["split"], first["step"]) == ("eval", 0)
    assert metrics["baseline_accuracy"] == first["metrics"]["accuracy"] < 0.7
    assert metrics["accuracy"] > 0.9
    (told,) = [e for e in events_of(finished, "log") if "before training" in e.data["message"]]
    assert told.data["fields"]["after"] == metrics["accuracy"]


def test_the_model_folder_holds_report_and_lineage(finished: RunDirectory) -> None:
    report = read_json(finished.model / "evaluation.json")
    assert report["metrics"] == read_json(finished.outcome)["metrics"]
    lineage = read_json(finished.model / "run.json")
    assert lineage["seed"] == 42
    assert lineage["num_threads"] == 1
    assert lineage["data_sha256"]["train"] == file_sha256(finished.path / "train.jsonl")
    assert {"torch", "transformers"} <= lineage["versions"].keys()
    assert lineage["seconds"]["training"] > 0


def test_no_gain_is_a_warning(encoder: Path, tmp_path: Path) -> None:
    directory = _make(tmp_path / "run", encoder, training={"epochs": 1, "learning_rate": 1e-9})
    assert carry_out(directory).result is Result.SUCCEEDED
    assert "no_gain" in {event.data["code"] for event in events_of(directory, "warning")}


def test_the_baseline_is_left_out_where_it_is_not_wanted_or_not_cheap(
    encoder: Path, tmp_path: Path
) -> None:
    wanted = {"evaluation": {"baseline": False}}
    dear = {"training": {"max_steps": 1, "batch_size": 4}, "data": {"eval": 0.5}}
    for number, parts in enumerate([wanted, dear]):
        directory = _make(tmp_path / str(number), encoder, **parts)
        assert not [m for m in carry_out(directory).metrics if m.startswith("baseline_")]


def test_a_resumed_run_keeps_the_baseline_and_measures_it_once(
    encoder: Path, tmp_path: Path
) -> None:
    whole, halted = (_make(tmp_path / name, encoder) for name in ("whole", "halted"))
    expected = carry_out(whole)
    assert stop_after(halted, step=5).result is Result.STOPPED
    assert carry_out(halted).metrics == expected.metrics
    steps = [e.data["step"] for e in events_of(halted, "metrics") if e.data["split"] == "eval"]
    assert steps.count(0) == 1
    models = [directory.model / "model.safetensors" for directory in (whole, halted)]
    assert file_sha256(models[0]) == file_sha256(models[1])


class _StopWhileMeasuringTheBase:
    def __init__(self, stopping: Stopping) -> None:
        self._stopping = stopping

    def report(self, event: Event) -> None:
        if isinstance(event, PhaseEntered) and event.phase == "evaluating":
            self._stopping.ask()


def test_a_stop_while_the_base_is_measured_leaves_nothing_half_done(
    encoder: Path, tmp_path: Path
) -> None:
    directory = _make(tmp_path / "run", encoder)
    stopping = Stopping(directory)
    watchers = [_StopWhileMeasuringTheBase(stopping)]
    outcome = run(directory, stopping=stopping, watchers=watchers)
    assert (outcome.result, outcome.step) == (Result.STOPPED, 0)
    assert steps_saved(directory.checkpoints) == []
    assert carry_out(directory).result is Result.SUCCEEDED


def test_early_stopping_does_not_wait_for_the_base_model_to_be_beaten(
    encoder: Path, tmp_path: Path
) -> None:
    training = {"epochs": 6, "learning_rate": 1e-9, "early_stopping": {"patience": 1}}
    outcome = carry_out(_make(tmp_path / "run", encoder, training=training))
    assert outcome.step == 2 * 7  # the first evaluation is the best so far, the second is not


@pytest.fixture
def detailed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let text classification tell details and predictions of the test's own."""

    def predictions(measured: Measured) -> list[dict[str, Any]]:
        return [{"logits": np.asarray(row).tolist()} for row in measured.predictions]

    build: Callable[..., Recipe] = text_classification.build
    monkeypatch.setattr(
        text_classification,
        "build",
        lambda setup: replace(
            build(setup),
            details=lambda measured: {"num_rows": len(measured.predictions)},
            predictions=predictions,
        ),
    )


@pytest.mark.usefixtures("detailed")
def test_a_run_begun_anew_hands_out_nothing_of_the_one_before(
    encoder: Path, tmp_path: Path
) -> None:
    directory = _make(tmp_path / "run", encoder, data={"eval": 0.2, "test": 0.1})
    assert carry_out(directory).result is Result.SUCCEEDED
    spec = read_json(directory.spec)
    write_json(directory.spec, {**spec, "data": {**spec["data"], "test": None}})
    assert carry_out(directory).result is Result.SUCCEEDED
    assert not (directory.model / "predictions.jsonl").exists()
    assert read_json(directory.model / "evaluation.json")["details"].keys() == {"eval"}


@pytest.mark.usefixtures("detailed")
def test_details_and_predictions_lie_beside_the_model(encoder: Path, tmp_path: Path) -> None:
    directory = _make(tmp_path / "run", encoder, data={"eval": 0.2, "test": 0.1})
    assert carry_out(directory).result is Result.SUCCEEDED
    details = read_json(directory.model / "evaluation.json")["details"]
    assert details == {"eval": {"num_rows": 24}, "test": {"num_rows": 12}}
    lines = (directory.model / "predictions.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["row"] for row in rows] == list(range(12))
    assert all(len(row["logits"]) == 3 for row in rows)
