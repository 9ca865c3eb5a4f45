import math
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.tiny import (
    WORDS,
    carry_out,
    colour_rows,
    events_of,
    make_run,
    save_encoder,
    stop_after,
)
from trainer_core.errors import Whose
from trainer_core.events import Event, MetricsMeasured
from trainer_core.run_directory import (
    Result,
    RunDirectory,
    StopRequest,
    file_sha256,
    read_json,
    verified_manifest,
    write_json,
)
from trainer_core.spec import TASKS
from trainer_core.training import tasks
from trainer_core.training.loop.callbacks import num_without_gain
from trainer_core.training.loop.checkpoints import steps_saved
from trainer_core.training.loop.trainer import RunTrainer
from trainer_core.training.process.stopping import Stopping
from trainer_core.training.run import run

pytestmark = pytest.mark.slow

# 42 rows less 4 held out: 5 steps an epoch, the last one shorter, each of up to two micro-batches.
TWO_EPOCHS = {"epochs": 2, "learning_rate": 1e-3, "batch_size": 8, "micro_batch_size": 4}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("models") / "encoder", dropout=0.2)


def _make(folder: Path, encoder: Path, **parts: Any) -> RunDirectory:
    spec = {"task": "text-classification", "training": TWO_EPOCHS, **parts}
    return make_run(folder, model=encoder, rows=colour_rows(42), spec=spec)


def _model_hash(directory: RunDirectory) -> str:
    return file_sha256(directory.model / "model.safetensors")


@pytest.fixture(scope="module")
def whole(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run that nothing interrupted."""
    directory = _make(tmp_path_factory.mktemp("whole") / "run", encoder)
    assert carry_out(directory).result is Result.SUCCEEDED
    return directory


def test_the_tasks_are_those_of_the_spec() -> None:
    folder = Path(tasks.__file__).parent
    files = {path.stem for path in folder.glob("*.py") if path.stem[0] != "_"}
    assert files == {task.__module__.rpartition(".")[2] for task in TASKS.values()}
    assert all(callable(tasks.find_task(name).build) for name in TASKS)


# 4 and 5 stop before an evaluation that is due, 9 and 10 before the last one.
@pytest.mark.parametrize("step", [1, 2, 4, 5, 7, 9, 10])
def test_a_stopped_run_ends_as_if_it_was_not_stopped(
    encoder: Path, tmp_path: Path, whole: RunDirectory, step: int
) -> None:
    directory = _make(tmp_path / "run", encoder)
    stopped = stop_after(directory, step=step)
    assert stopped.result is Result.STOPPED
    assert stopped.checkpoint == f"checkpoints/checkpoint-{stopped.step}"
    resumed = carry_out(directory)
    assert resumed.to_dict() == read_json(whole.outcome)
    assert _model_hash(directory) == _model_hash(whole)
    assert file_sha256(
        directory.checkpoints / "checkpoint-10" / "model.safetensors"
    ) == file_sha256(whole.checkpoints / "checkpoint-10" / "model.safetensors")


def test_loader_workers_do_not_change_the_result(
    encoder: Path, tmp_path: Path, whole: RunDirectory
) -> None:
    training = {**TWO_EPOCHS, "data_loader_workers": 1}
    directory = _make(tmp_path / "run", encoder, training=training)
    assert stop_after(directory, step=2).result is Result.STOPPED
    assert carry_out(directory).result is Result.SUCCEEDED
    assert _model_hash(directory) == _model_hash(whole)


def test_a_stop_without_saving_leaves_no_checkpoint(encoder: Path, tmp_path: Path) -> None:
    directory = _make(tmp_path / "run", encoder)
    directory.request_stop(StopRequest("cancelled", is_saving=False))
    outcome = stop_after(directory, step=2)
    assert (outcome.result, outcome.step, outcome.checkpoint) == (Result.STOPPED, 3, None)
    assert steps_saved(directory.checkpoints) == []


def test_events_tell_the_whole_story(whole: RunDirectory) -> None:
    phases = [line.data["phase"] for line in events_of(whole, "phase")]
    assert phases[:4] == ["preparing", "loading", "tokenizing", "training"]
    assert phases[4:] == ["evaluating", "training"] * 3 + ["saving"]
    progress = [line.data for line in events_of(whole, "progress")]
    assert (progress[0]["step"], progress[-1]["step"]) == (1, 10)
    assert all(step["max_steps"] == 10 for step in progress)
    assert progress[-1]["eta_seconds"] == 0
    logs = [line.data["fields"] for line in events_of(whole, "log")]
    (num_tokens,) = [fields["num_tokens"] for fields in logs if "num_tokens" in fields]
    assert progress[-1]["num_tokens"] == 2 * num_tokens
    measured = [line.data for line in events_of(whole, "metrics")]
    assert [m["step"] for m in measured if m["split"] == "train"] == list(range(1, 11))
    assert [m["step"] for m in measured if m["split"] == "eval"] == [0, 5, 10]
    saved = [line.data for line in events_of(whole, "checkpoint")]
    assert [one["path"] for one in saved] == [f"checkpoints/checkpoint-{n}" for n in (5, 10)]
    assert saved[0]["is_best"]
    assert set(saved[0]["metrics"]) >= {"loss", "accuracy", "macro_f1"}


def _train_losses(directory: RunDirectory) -> dict[int, float]:
    told = [line.data for line in events_of(directory, "metrics")]
    return {one["step"]: one["metrics"]["loss"] for one in told if one["split"] == "train"}


def test_a_record_an_epoch_is_the_mean_of_its_steps(
    encoder: Path, tmp_path: Path, whole: RunDirectory
) -> None:
    directory = _make(tmp_path / "run", encoder, training={**TWO_EPOCHS, "log_steps": "epoch"})
    assert carry_out(directory).result is Result.SUCCEEDED
    of_steps = _train_losses(whole)
    means = {last: sum(of_steps[last - n] for n in range(5)) / 5 for last in (5, 10)}
    assert _train_losses(directory) == pytest.approx(means)


def test_a_checkpoint_is_sealed_and_holds_no_pickled_arguments(whole: RunDirectory) -> None:
    checkpoint = whole.checkpoints / "checkpoint-10"
    manifest = verified_manifest(checkpoint)
    assert manifest is not None
    assert "training_args.bin" not in {file.path for file in manifest}


@pytest.mark.parametrize("damage", ["model.safetensors", "optimizer.pt", "rng_state.pth"])
def test_a_damaged_checkpoint_is_passed_over_and_told(
    encoder: Path, tmp_path: Path, whole: RunDirectory, damage: str
) -> None:
    directory = _make(tmp_path / "run", encoder)
    shutil.copytree(whole.checkpoints, directory.checkpoints)
    damaged = directory.checkpoints / "checkpoint-10" / damage
    *most, last = damaged.read_bytes()
    damaged.write_bytes(bytes([*most, last ^ 1]))
    outcome = carry_out(directory)
    assert outcome.result is Result.SUCCEEDED
    codes = [line.data["code"] for line in events_of(directory, "warning")]
    assert codes[0] == "checkpoint_damaged"
    assert {"checkpoint": "checkpoint-5"} in [
        line.data["fields"] for line in events_of(directory, "log")
    ]
    assert _model_hash(directory) == _model_hash(whole)


def test_other_rows_than_the_checkpoints_are_refused(
    encoder: Path, tmp_path: Path, whole: RunDirectory
) -> None:
    spec = {"task": "text-classification", "training": TWO_EPOCHS}
    directory = make_run(tmp_path / "run", model=encoder, rows=colour_rows(42, seed=9), spec=spec)
    shutil.copytree(whole.checkpoints, directory.checkpoints)
    error = carry_out(directory).error
    assert error is not None
    assert error.code == "data_changed"


def test_an_upload_whose_bytes_changed_is_refused(encoder: Path, tmp_path: Path) -> None:
    directory = _make(tmp_path / "run", encoder)
    inputs = read_json(directory.inputs)
    inputs["train"]["sha256"] = "0" * 64
    write_json(directory.inputs, inputs)
    error = carry_out(directory).error
    assert error is not None
    assert error.code == "data_changed"


def test_the_best_model_is_handed_out_not_the_last(encoder: Path, tmp_path: Path) -> None:
    # A rate that makes the loss on rows never seen rise again; the metric is the loss.
    training = {**TWO_EPOCHS, "epochs": 8, "learning_rate": 2e-2}
    rows = [{**row, "label": WORDS[number % 3]} for number, row in enumerate(colour_rows(42))]
    spec = {
        "task": "text-classification",
        "training": training,
        "evaluation": {"metric": "loss"},
        "checkpoints": {"keep": 1},
    }
    shuffled = [{**row, "label": WORDS[(number * 7) % 5 % 3]} for number, row in enumerate(rows)]
    directory = make_run(tmp_path / "run", model=encoder, rows=shuffled, spec=spec)
    outcome = carry_out(directory)
    losses = {
        line.data["step"]: line.data["metrics"]["loss"]
        for line in events_of(directory, "metrics")
        if line.data["split"] == "eval" and line.data["step"] > 0
    }
    best = min(losses, key=losses.__getitem__)
    assert outcome.best_step == best != outcome.step
    assert outcome.metrics["loss"] == losses[best]
    assert steps_saved(directory.checkpoints) == [best, outcome.step]
    handed_out = load_file(directory.model / "model.safetensors")
    of_best = load_file(directory.checkpoints / f"checkpoint-{best}" / "model.safetensors")
    assert all((handed_out[name] == tensor).all() for name, tensor in of_best.items())


def test_the_best_model_is_saved_also_where_checkpoints_come_at_other_steps(
    encoder: Path, tmp_path: Path
) -> None:
    checkpoints = {"strategy": "steps", "steps": 4}
    directory = _make(tmp_path / "run", encoder, checkpoints=checkpoints)
    outcome = carry_out(directory)
    assert outcome.best_step in (5, 10)
    assert outcome.best_step in steps_saved(directory.checkpoints)


def test_early_stopping_ends_training_and_a_resumed_run_alike(
    encoder: Path, tmp_path: Path
) -> None:
    training = {
        **TWO_EPOCHS,
        "epochs": 20,
        "early_stopping": {"patience": 2, "min_delta": 0.9},  # nothing gains so much
    }
    directory = _make(tmp_path / "run", encoder, training=training)
    outcome = carry_out(directory)
    assert outcome.step == 15  # the first evaluation, and two without a gain
    directory.outcome.unlink()
    assert carry_out(directory).step == 15


def test_gain_is_counted_from_the_last_value_that_gained() -> None:
    values = [0.5, 0.54, 0.58, 0.62, 0.63]
    assert num_without_gain(values, min_delta=0.1, is_greater_better=True) == 1
    assert num_without_gain(values, min_delta=0.0, is_greater_better=True) == 0
    assert num_without_gain(values, min_delta=0.0, is_greater_better=False) == 4
    assert num_without_gain([], min_delta=0.0, is_greater_better=True) == 0


def test_a_loss_that_is_no_number_ends_the_run_with_the_last_good_checkpoint(
    encoder: Path, tmp_path: Path
) -> None:
    training = {
        **TWO_EPOCHS,
        "epochs": 20,
        "learning_rate": 10,
        "optimizer": "sgd",
        "max_grad_norm": None,
        "scheduler": "constant",
    }
    rows = [{"text": row["text"], "label": 1e6 * len(row["text"])} for row in colour_rows(42)]
    spec = {"task": "text-classification", "problem": "regression", "training": training}
    directory = make_run(tmp_path / "run", model=encoder, rows=rows, spec=spec)
    outcome = carry_out(directory)
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.whose) == ("diverged", Whose.USER)
    assert outcome.error.param == "/training/learning_rate"
    assert outcome.step <= 10
    assert not directory.model.exists()
    saved = steps_saved(directory.checkpoints)
    for step in saved:
        assert verified_manifest(directory.checkpoints / f"checkpoint-{step}") is not None
    expected = f"checkpoints/checkpoint-{saved[-1]}" if saved else None
    assert outcome.error.detail["checkpoint"] == expected


class Spoil:
    """A watcher that makes a weight NaN once a step's loss, still a number, was told."""

    def __init__(self, step: int) -> None:
        self._step = step
        self.weight: torch.nn.Parameter | None = None

    def report(self, event: Event) -> None:
        match event:
            case MetricsMeasured(split="train", step=self._step):
                assert self.weight is not None
                with torch.no_grad():
                    self.weight[0] = math.nan


def test_weights_that_are_no_numbers_are_never_saved(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Saves after 5 and 10 steps, and no evaluation is there to notice.
    parts = {"evaluation": {"strategy": "no"}, "checkpoints": {"strategy": "epoch"}}
    training = {**TWO_EPOCHS, "log_steps": 1}
    directory = _make(tmp_path / "run", encoder, training=training, **parts)
    spoil = Spoil(10)
    begin = RunTrainer.fit

    def fit(self: Any, *, resume_from: Path | None) -> None:
        spoil.weight = next(w for w in self.model.parameters() if w.requires_grad)
        begin(self, resume_from=resume_from)

    monkeypatch.setattr(RunTrainer, "fit", fit)
    outcome = run(directory, stopping=Stopping(directory), watchers=[spoil])
    assert outcome.error is not None
    assert outcome.error.code == "diverged"
    assert outcome.error.detail == {"step": 10, "checkpoint": "checkpoints/checkpoint-5"}
    assert steps_saved(directory.checkpoints) == [5]
    assert not directory.model.exists()


def test_an_unexpected_error_is_typed_and_its_traceback_kept_in_the_log(
    encoder: Path, tmp_path: Path
) -> None:
    directory = _make(tmp_path / "run", encoder)
    directory.resolved.mkdir()  # where a file is to be written
    error = carry_out(directory).error
    assert error is not None
    assert error.code == "internal_error"
    assert error.message.startswith("IsADirectoryError")
    assert "Traceback (most recent call last)" in directory.log.read_text()


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:500]), "model.safetensors is damaged"),
        (lambda path: path.unlink(), "the model has no model.safetensors"),
    ],
)
def test_a_model_that_is_not_whole_is_told(tmp_path: Path, damage: Any, expected: str) -> None:
    model = save_encoder(tmp_path / "model")
    damage(model / "model.safetensors")
    error = carry_out(_make(tmp_path / "run", model)).error
    assert error is not None
    assert error.code == "unusable_model"
    assert expected in error.message


def test_weights_of_another_shape_are_told(tmp_path: Path) -> None:
    model = save_encoder(tmp_path / "model")
    write_json(model / "config.json", {**read_json(model / "config.json"), "hidden_size": 48})
    error = carry_out(_make(tmp_path / "run", model)).error
    assert error is not None
    assert error.code == "unusable_model"


def test_a_hostile_model_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    model = save_encoder(tmp_path / "model")
    config = read_json(model / "config.json")
    write_json(model / "config.json", {**config, "auto_map": {"AutoModel": "x.Model"}})
    error = carry_out(_make(tmp_path / "run", model)).error
    assert error is not None
    assert (error.code, error.param) == ("unsafe_model", "/auto_map")


class OutOfTime:
    """A watcher at whose step the time of the run is over."""

    def report(self, event: Event) -> None:
        match event:
            case MetricsMeasured(split="train", step=3):
                signal.raise_signal(signal.SIGALRM)


def test_a_run_out_of_time_fails_with_a_checkpoint_from_which_more_time_goes_on(
    encoder: Path, tmp_path: Path, whole: RunDirectory
) -> None:
    limited = {
        "training": {**TWO_EPOCHS, "log_steps": 1},
        "resources": {"max_runtime_seconds": 9999},
    }
    directory = _make(tmp_path / "run", encoder, **limited)
    outcome = run(directory, stopping=Stopping(directory), watchers=[OutOfTime()])
    assert outcome.result is Result.FAILED
    assert outcome.error is not None
    assert outcome.error.code == "max_runtime_reached"
    assert "9999 seconds" in outcome.error.message
    assert outcome.checkpoint == "checkpoints/checkpoint-4"  # the step in hand was finished
    spec = read_json(directory.spec)
    write_json(directory.spec, {**spec, "resources": {"max_runtime_seconds": 99999}})
    assert carry_out(directory).result is Result.SUCCEEDED
    assert any("resuming from checkpoint-4" in str(line.data) for line in events_of(directory))
    assert _model_hash(directory) == _model_hash(whole)
