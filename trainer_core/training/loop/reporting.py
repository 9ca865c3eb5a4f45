"""From the Trainer's callbacks to the run's events."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer_core.errors import Diverged
from trainer_core.events import MetricsMeasured, Phase, Progressed, Reporter
from trainer_core.training.process.clock import PhaseProgress

_SECONDS_BETWEEN_REPORTS = 0.5
_TIMINGS = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")
_TRAIN_METRICS = ("loss", "grad_norm", "learning_rate")

Split = Literal["train", "eval", "test"]


class ReportingCallback(TrainerCallback):
    """Tells the reporter of progress and of figures, and raises Diverged where there are none."""

    def __init__(self, reporter: Reporter, *, num_tokens_until: Callable[[int], int]) -> None:
        self._reporter = reporter
        self._num_tokens_until = num_tokens_until
        self._step_loss: torch.Tensor | None = None
        self._began = (0.0, 0)  # clock in seconds, and step, when this process began to train
        self._reported = (-math.inf, -1)  # the same of the latest report
        self.metrics: dict[str, dict[str, float]] = {}  # latest, by split
        self._evaluation: PhaseProgress | None = None  # of the evaluation in hand
        self._num_batches = 0  # of it that are measured

    def add_loss(self, loss: torch.Tensor) -> None:
        """Take a micro-batch's share of the step's loss; it is read only when it is reported."""
        self._step_loss = loss if self._step_loss is None else self._step_loss + loss

    def begin(self, step: int) -> None:
        """Take a step for the one that this process goes on from: it is not told as its own."""
        self._began = (time.monotonic(), step)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.begin(state.global_step)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._step_loss = None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        seconds_since = time.monotonic() - self._reported[0]
        if seconds_since >= _SECONDS_BETWEEN_REPORTS or state.global_step >= state.max_steps:
            self._report_progress(state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self._is_untold(state):
            self._report_progress(state)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        logs = logs or {}
        if "loss" in logs:
            found = {name: float(logs[name]) for name in _TRAIN_METRICS if name in logs}
            self._measured("train", found, state)
        elif "train_loss" in logs:
            # The end: steps since the last record have not been looked at.
            check_finite(
                float(logs["train_loss"]), what="the training loss", step=state.global_step
            )

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: Any = None,
        **_: Any,
    ) -> None:
        if self._evaluation is None:
            if self._is_untold(state):
                self._report_progress(state)  # a stop within the evaluation would leave it untold
            self._num_batches = 0
            total = len(eval_dataloader)
            self._evaluation = PhaseProgress(self._reporter, Phase.EVALUATING, total)
        self._num_batches += 1
        self._evaluation.tell(self._num_batches)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **_: Any,
    ) -> None:
        self._evaluation = None
        for split in ("eval", "test"):
            found = {
                name.removeprefix(f"{split}_"): float(value)
                for name, value in (metrics or {}).items()
                if name.startswith(f"{split}_")
            }
            if found:
                self._measured(split, without_timings(found), state)

    def _measured(self, split: Split, found: dict[str, float], state: TrainerState) -> None:
        check_finite(found["loss"], what=f"the {split} loss", step=state.global_step)
        finite = {name: value for name, value in found.items() if math.isfinite(value)}
        self.metrics[split] = finite
        self._reporter.report(
            MetricsMeasured(
                split=split, step=state.global_step, epoch=float(state.epoch or 0), metrics=finite
            )
        )

    def _is_untold(self, state: TrainerState) -> bool:
        return state.global_step > max(self._reported[1], self._began[1])

    def _report_progress(self, state: TrainerState) -> None:
        now = time.monotonic()
        loss = None if self._step_loss is None else float(self._step_loss)
        if loss is not None:
            check_finite(loss, what="the training loss", step=state.global_step)
        began_at, first_step = self._began
        steps_taken = state.global_step - first_step
        steps_left = state.max_steps - state.global_step
        self._reported = (now, state.global_step)
        self._reporter.report(
            Progressed(
                step=state.global_step,
                max_steps=state.max_steps,
                epoch=float(state.epoch or 0),
                num_tokens=self._num_tokens_until(state.global_step),
                loss=loss,
                eta_seconds=(now - began_at) / steps_taken * steps_left if steps_taken else None,
            )
        )


def without_timings(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return measured figures without the Trainer's own timings."""
    return {name: value for name, value in metrics.items() if name not in _TIMINGS}


def check_finite(loss: float, *, what: str, step: int) -> None:
    """Raise Diverged for a loss that is no number."""
    if not math.isfinite(loss):
        raise diverged(f"{what} became {loss} by step {step}", step=step)


def diverged(what: str, *, step: int) -> Diverged:
    """Return the error that a run has lost its numbers; a few words say which."""
    return Diverged(
        f"{what}; expected a finite number.",
        hint="Lower training.learning_rate, raise training.warmup_ratio, or set "
        "training.precision to 'fp32'.",
        param="/training/learning_rate",
        detail={"step": step},
    )
