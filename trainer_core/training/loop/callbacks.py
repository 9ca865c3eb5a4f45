"""What the training loop is asked after each step and evaluation: to stop, or to stop early."""

from collections.abc import Iterable, Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from trainer_core.failpoints import failpoint
from trainer_core.spec.parts import EarlyStopping
from trainer_core.training.process.stopping import Stopping


class StoppingCallback(TrainerCallback):
    """Ends training after the step in hand when the run is asked to stop.

    An evaluation that would be due is not begun; the resumed run makes up for it. A run that is to
    finish will not be resumed: it evaluates what it has, so that the best model may be the last.
    """

    def __init__(self, stopping: Stopping) -> None:
        self._stopping = stopping
        self._has_ended = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self._stopping.look():
            control.should_training_stop = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        failpoint("step.ended")
        self._look(args, control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._look(args, control)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._stopping.check(can_finish=state.global_step > 0)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self._stopping.look() and self._stopping.is_finishing:
            control.should_training_stop = True
            self._has_ended = True  # this was the evaluation

    def _look(self, args: TrainingArguments, control: TrainerControl) -> None:
        if self._stopping.look():
            control.should_training_stop = True
            # The loop comes to the epoch's end too after a stop within it; once is enough.
            is_finishing = self._stopping.is_finishing and not self._has_ended
            is_evaluated = args.eval_strategy != IntervalStrategy.NO
            control.should_evaluate = is_finishing and is_evaluated
            control.should_save = self._stopping.request.is_saving and not self._has_ended
            self._has_ended = True


class EarlyStoppingCallback(TrainerCallback):
    """Stops when the metric no longer improves.

    transformers' own counts in memory, so that a resumed run starts counting anew; this one reads
    the history that every checkpoint carries.
    """

    def __init__(self, rule: EarlyStopping, *, metric: str, is_greater_better: bool) -> None:
        self._rule = rule
        self._metric = metric
        self._is_greater_better = is_greater_better

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._look(state, control)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._look(state, control)

    def _look(self, state: TrainerState, control: TrainerControl) -> None:
        trained = [e for e in evaluations(state.log_history, self._metric) if e["step"] > 0]
        values = [entry[f"eval_{self._metric}"] for entry in trained]
        idle = num_without_gain(
            values, min_delta=self._rule.min_delta, is_greater_better=self._is_greater_better
        )
        if idle >= self._rule.patience:
            control.should_training_stop = True


def evaluations(
    history: Iterable[Mapping[str, Any]], metric: str = "loss"
) -> list[Mapping[str, Any]]:
    """Return the records of a Trainer's history that have an evaluation metric."""
    return [entry for entry in history if f"eval_{metric}" in entry]


def num_without_gain(values: Iterable[float], *, min_delta: float, is_greater_better: bool) -> int:
    """Return how many values came after the last one that beat the best by more than min_delta."""
    best, idle = None, 0
    for value in values:
        gain = None if best is None else (value - best if is_greater_better else best - value)
        if gain is None or gain > min_delta:
            best, idle = value, 0
        else:
            idle += 1
    return idle
