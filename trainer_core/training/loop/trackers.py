"""Experiment trackers, one class each: a run's figures in the words of each.

    tensorboard   event files
    wandb         to the server of WANDB_API_KEY; without a key files for `wandb sync`
    mlflow        to the server of MLFLOW_TRACKING_URI, which has to be set
    trackio       to the server of TRACKIO_SERVER_URL; without one a SQLite file

Files lie in the run directory below `tracking/` and go out with the model, so none may name this
machine. Addresses and keys are in the environment alone. Each package is imported by the job that
asks for it. `tracking.py` says what happens when one fails.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from trainer_core.errors import InvalidSetting
from trainer_core.events import MetricsMeasured
from trainer_core.run_directory import Result
from trainer_core.spec import JobSpec

_PROJECT = "luthier"  # where the environment names no other
_MLFLOW_BATCH = 100  # most parameters that one request may hold
_MAX_WANDB_TAG = 64  # characters
_MAX_MLFLOW_VALUE = 500  # characters that every version of the server takes

Parameter = str | int | float | bool


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """What a tracker knows of a run when it begins to watch."""

    name: str
    identity: str  # the same for every attempt at the run
    first_step: int  # optimizer steps that are done: those of the checkpoint gone on from
    parameters: Mapping[str, Parameter]
    labels: Mapping[str, str]
    folder: Path  # for files


class Tracker(Protocol):
    """What is told the figures of a run, and how it ended."""

    def report(self, measured: MetricsMeasured) -> None:
        """Take note of figures."""

    def close(self, result: Result) -> None:
        """Send what is not sent yet, and how the run ended."""


def parameters_of(spec: JobSpec) -> dict[str, Parameter]:
    """Return the settings of a resolved spec by their dotted names."""
    left_out = {"name", "labels", "secrets", "tracking", "version"}
    values = spec.model_dump(mode="json", exclude=left_out)
    return dict(_flat(values))


def _flat(values: Mapping[str, Any], above: str = "") -> list[tuple[str, Parameter]]:
    found: list[tuple[str, Parameter]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += _flat(value, f"{above}{name}.")
        elif value is not None:
            simple = value if isinstance(value, str | int | float) else str(value)
            found.append((f"{above}{name}", simple))
    return found


def figures_of(measured: MetricsMeasured) -> dict[str, float]:
    """Return the figures as `split/metric`."""
    return {f"{measured.split}/{name}": value for name, value in measured.metrics.items()}


class TensorBoard:
    """Writes event files."""

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        self._folder, self._first_step = run.folder, run.first_step
        # What an attempt did after its last checkpoint is done again, and is to be seen once.
        writer: Any = SummaryWriter  # untyped
        self._writer = writer(str(run.folder), purge_step=run.first_step + 1)
        if not run.first_step:
            labels = {f"labels.{name}": value for name, value in run.labels.items()}
            for summary in hparams({**run.parameters, **labels}, {}):  # type: ignore[no-untyped-call]
                self._writer.file_writer.add_summary(summary)
            self._writer.add_text("name", run.name)

    def report(self, measured: MetricsMeasured) -> None:
        for name, value in figures_of(measured).items():
            self._writer.add_scalar(name, value, measured.step)
        self._writer.flush()

    def close(self, result: Result) -> None:
        self._writer.add_text("result", str(result))
        self._writer.close()
        for path in self._folder.glob("events.out.tfevents.*.*.*"):
            # The name goes on with this machine's own name and the number of the process.
            began = ".".join(path.name.split(".")[:4])
            path.rename(path.with_name(f"{began}.{self._first_step:010}"))


class WeightsAndBiases:
    """Sends to a server of Weights & Biases, or writes what `wandb sync` sends later."""

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        is_online = "WANDB_API_KEY" in os.environ
        run.folder.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            mode="online" if is_online else "offline",
            console="off",
            silent=True,
            symlink=False,
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            finish_timeout=20,  # seconds; also of the handler at the process's exit
        )
        tags = [f"{name}={value}" for name, value in run.labels.items()]
        tags += [tag for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag]
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            id=run.identity,
            name=os.environ.get("WANDB_NAME", run.name),
            resume="allow",
            config={**run.parameters, "labels": dict(run.labels)},
            tags=[tag for tag in tags if len(tag) <= _MAX_WANDB_TAG],
            dir=str(run.folder),
            settings=settings,
        )
        # Its own step may never fall, as ours does where a resumed run repeats what was lost.
        self._run.define_metric("*", step_metric="step")

    def report(self, measured: MetricsMeasured) -> None:
        axes = {"step": measured.step, "epoch": measured.epoch}
        self._run.log({**figures_of(measured), **axes})

    def close(self, result: Result) -> None:
        import wandb

        self._run.finish(exit_code=0 if result is Result.SUCCEEDED else 1)
        wandb.teardown()  # `finish` only asks its process to write the rest; this waits for its end


class MLflow:
    """Sends to an MLflow server."""

    _STATUS = {  # noqa: RUF012 - a constant
        Result.SUCCEEDED: "FINISHED",
        Result.STOPPED: "KILLED",
        Result.FAILED: "FAILED",
    }

    def __init__(self, run: TrackedRun) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        if not os.environ.get("MLFLOW_TRACKING_URI"):
            raise InvalidSetting("MLFLOW_TRACKING_URI is not set on the worker.", hint="Set it.")
        self._client = MlflowClient()
        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT))
        where = f"tags.`luthier.run` = '{run.identity}'"
        if found := self._client.search_runs([experiment], where, max_results=1):
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        tags = {**run.labels, "luthier.run": run.identity}
        self._id = self._client.create_run(experiment, tags=tags, run_name=run.name).info.run_id
        given = [Param(k, str(v)[:_MAX_MLFLOW_VALUE]) for k, v in run.parameters.items()]
        for start in range(0, len(given), _MLFLOW_BATCH):
            self._client.log_batch(self._id, params=given[start : start + _MLFLOW_BATCH])

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name))

    def report(self, measured: MetricsMeasured) -> None:
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000  # milliseconds
        figures = figures_of(measured)
        metrics = [Metric(name, value, now, measured.step) for name, value in figures.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self, result: Result) -> None:
        self._client.set_terminated(self._id, status=self._STATUS[result])


class Trackio:
    """Sends to a Trackio server, or writes a SQLite file that `trackio show` reads."""

    def __init__(self, run: TrackedRun) -> None:
        run.folder.mkdir(parents=True, exist_ok=True)
        os.environ["TRACKIO_DIR"] = str(run.folder)  # read when the package is imported
        import trackio

        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", _PROJECT),
            name=f"{run.name} {run.identity}",  # a run is found again by its name
            resume="allow",
            config={**run.parameters, "labels": dict(run.labels)},
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def report(self, measured: MetricsMeasured) -> None:
        figures = {**figures_of(measured), "epoch": measured.epoch}
        self._run.log(figures, step=measured.step)

    def close(self, result: Result) -> None:
        self._run.finish()


TRACKERS: Mapping[str, Callable[[TrackedRun], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
    "trackio": Trackio,
}
