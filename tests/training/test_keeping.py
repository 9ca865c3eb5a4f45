"""A run that is asked to finish early: the steps it has taken become a model, measured as usual."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification

from tests.training.tiny import (
    StopAfter,
    carry_out,
    colour_rows,
    events_of,
    make_run,
    save_encoder,
    stop_after,
)
from trainer_core.events import Event, PhaseEntered
from trainer_core.run_directory import (
    Outcome,
    Result,
    RunDirectory,
    StopRequest,
    file_sha256,
    verified_manifest,
)
from trainer_core.training.loop.checkpoints import checkpoint_path, steps_saved
from trainer_core.training.process.stopping import Stopping
from trainer_core.training.run import run

pytestmark = pytest.mark.slow

KEEP = StopRequest("keep", is_saving=False, is_finishing=True)
CANCEL = StopRequest("cancel", is_saving=False)
PAUSE = StopRequest("pause", is_saving=True)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("models") / "encoder")


def _make(folder: Path, encoder: Path, **parts: Any) -> RunDirectory:
    training = {"epochs": 4, "learning_rate": 5e-3, "batch_size": 12}
    data = {"eval": 0.2, **parts.pop("data", {})}
    spec = {"task": "text-classification", "training": training, "data": data, **parts}
    return make_run(folder, model=encoder, rows=colour_rows(120), spec=spec)


class _AskIn:
    """A watcher that makes one request after the other, each when a phase is entered."""

    def __init__(self, stopping: Stopping, run: RunDirectory, *asks: tuple[str, int, StopRequest]):
        self._stopping, self._run, self._asks = stopping, run, list(asks)
        self._num_entered: dict[str, int] = {}

    def report(self, event: Event) -> None:
        if not isinstance(event, PhaseEntered):
            return
        self._num_entered[event.phase] = self._num_entered.get(event.phase, 0) + 1
        if self._asks and self._num_entered[event.phase] == self._asks[0][1]:
            phase, _, request = self._asks[0]
            if event.phase == phase:
                del self._asks[0]
                self._run.request_stop(request)
                self._stopping.ask()


def _asked_in(directory: RunDirectory, *asks: tuple[str, int, StopRequest]) -> Outcome:
    """Carry out a run, asking for something when a phase is entered for the n-th time."""
    stopping = Stopping(directory)
    return run(directory, stopping=stopping, watchers=[_AskIn(stopping, directory, *asks)])


def _kept_after(directory: RunDirectory, *, step: int) -> Outcome:
    """Carry out a run that is asked to finish once a step is told, which is in the next one."""
    directory.request_stop(KEEP)  # heard once the signal comes
    stopping = Stopping(directory)
    return run(directory, stopping=stopping, watchers=[StopAfter(step, stopping=stopping)])


def test_the_steps_taken_are_measured_and_become_a_model(encoder: Path, tmp_path: Path) -> None:
    directory = _make(tmp_path / "run", encoder, data={"test": 0.1})
    outcome = _kept_after(directory, step=11)
    assert (outcome.result, outcome.step) == (Result.SUCCEEDED, 12)
    measured = [e.data for e in events_of(directory, "metrics") if e.data["split"] == "eval"]
    assert [one["step"] for one in measured] == [0, 7, 12]  # before, after an epoch, at the end
    best = max(measured[1:], key=lambda one: one["metrics"]["accuracy"])
    assert outcome.metrics["accuracy"] == best["metrics"]["accuracy"]
    assert "test_accuracy" in outcome.metrics
    assert verified_manifest(directory.model)
    AutoModelForSequenceClassification.from_pretrained(directory.model)


@pytest.mark.parametrize(
    "parts",
    [
        {"evaluation": {"strategy": "no"}, "checkpoints": {"strategy": "no"}},
        {"checkpoints": {"strategy": "no"}},
        {"evaluation": {"strategy": "steps", "steps": 3}},
        {"data": {"eval": None}, "evaluation": {"strategy": "no"}},
    ],
    ids=["never", "unsaved", "steps", "no rows"],
)
def test_whatever_is_evaluated_and_saved_a_model_is_kept(
    encoder: Path, tmp_path: Path, parts: dict[str, Any]
) -> None:
    directory = _make(tmp_path / "run", encoder, **parts)
    outcome = _kept_after(directory, step=2)
    assert (outcome.result, outcome.step) == (Result.SUCCEEDED, 3)
    assert ("accuracy" in outcome.metrics) == (parts.get("data") is None)
    assert verified_manifest(directory.model)


def test_without_a_step_nothing_is_kept(encoder: Path, tmp_path: Path) -> None:
    for phase in ("preparing", "tokenizing", "loading", "training", "evaluating"):
        directory = _make(tmp_path / phase, encoder)
        outcome = _asked_in(directory, (phase, 1, KEEP))
        assert (phase, outcome.result, outcome.step) == (phase, Result.STOPPED, 0)
        assert not directory.model.exists()


def test_an_evaluation_in_hand_is_brought_to_its_end(encoder: Path, tmp_path: Path) -> None:
    directory = _make(tmp_path / "run", encoder)
    outcome = _asked_in(directory, ("evaluating", 2, KEEP))  # the first is of the base model
    assert (outcome.result, outcome.step) == (Result.SUCCEEDED, 8)
    assert verified_manifest(directory.model)


def test_what_is_wanted_gone_at_once_is_not_measured_to_the_end(
    encoder: Path, tmp_path: Path
) -> None:
    directory = _make(tmp_path / "run", encoder, data={"test": 0.1})
    outcome = _asked_in(directory, ("evaluating", 2, KEEP), ("evaluating", 3, CANCEL))
    assert (outcome.result, directory.model.exists()) == (Result.STOPPED, False)


@pytest.mark.parametrize("phase", ["preparing", "tokenizing", "loading", "training"])
def test_steps_of_an_earlier_attempt_are_kept_wherever_this_one_is(
    encoder: Path, tmp_path: Path, phase: str
) -> None:
    directory = _make(tmp_path / "run", encoder)
    assert stop_after(directory, step=4).result is Result.STOPPED
    weights = checkpoint_path(directory.checkpoints, step=5) / "model.safetensors"
    expected = file_sha256(weights)
    outcome = _asked_in(directory, (phase, 1, KEEP))
    assert (outcome.result, outcome.step) == (Result.SUCCEEDED, 5)
    assert "accuracy" in outcome.metrics
    assert file_sha256(directory.model / "model.safetensors") == expected


def test_a_stop_while_the_model_is_measured_saves_what_was_saved_nowhere(
    encoder: Path, tmp_path: Path
) -> None:
    parts = {"evaluation": {"strategy": "no"}, "checkpoints": {"strategy": "no"}}
    whole, halted = (_make(tmp_path / name, encoder, **parts) for name in ("whole", "halted"))
    assert carry_out(whole).result is Result.SUCCEEDED
    outcome = _asked_in(halted, ("evaluating", 2, PAUSE))  # the first is of the base model
    assert (outcome.result, outcome.step) == (Result.STOPPED, 32)
    assert steps_saved(halted.checkpoints) == [32]
    assert carry_out(halted).result is Result.SUCCEEDED
    models = [directory.model / "model.safetensors" for directory in (whole, halted)]
    assert file_sha256(models[0]) == file_sha256(models[1])
