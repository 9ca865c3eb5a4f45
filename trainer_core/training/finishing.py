"""The end of a run: the model that is handed out is measured, described and saved."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from trainer_core.events import Phase, Reporter
from trainer_core.run_directory import RunDirectory, write_json
from trainer_core.training.deciding import Decided
from trainer_core.training.loop.arguments import is_greater_better
from trainer_core.training.loop.run_loop import RunLoop
from trainer_core.training.loop.tracking import copy_tracking
from trainer_core.training.metrics.evaluations import (
    PREDICTIONS,
    REPORT,
    describe_gain,
    kept_details,
    with_baseline,
    write_predictions,
)
from trainer_core.training.models.saving import Weights, save_adapter, save_model, whole_weights
from trainer_core.training.process import processes
from trainer_core.training.process.clock import PhaseClock
from trainer_core.training.recipes.adapters import merge_adapter
from trainer_core.training.recipes.cards import model_card
from trainer_core.training.recipes.recipe import Recipe


@dataclass(slots=True)
class Finish:
    """What is known once training is over."""

    directory: RunDirectory
    reporter: Reporter
    clock: PhaseClock
    decided: Decided
    trainer: RunLoop
    recipe: Recipe
    best_step: int | None  # whose weights the model has; None for the last ones
    end_tracking: Callable[[], None]  # its files go into the model's folder

    def measure(self) -> dict[str, float]:
        """Return the figures of the model that is handed out, and of the base model."""
        trainer, rows, spec = self.trainer, self.recipe.rows, self.decided.spec
        metrics = trainer.metrics_at(self._step)
        if not metrics and "eval" in rows:  # evaluation.strategy "no": once, at the end
            metrics = self._evaluate("eval")
        metrics = with_baseline(metrics, trainer.metrics_at(0))
        told = describe_gain(
            metrics,
            metric=spec.evaluation.metric,
            is_greater_better=is_greater_better(spec),
        )
        if told:
            self.reporter.report(told)
        if "test" in rows:
            tested = self._evaluate("test")
            metrics |= {f"test_{name}": value for name, value in tested.items()}
            if processes.is_first():
                self._keep_predictions()
        return metrics

    def save(self, metrics: Mapping[str, float]) -> None:
        """Write the model, whole or not at all, and what belongs to it."""
        self.clock.enter(Phase.SAVING)
        weights = whole_weights(self.trainer)
        if processes.is_first():
            self._write(metrics, weights)
        processes.wait_for_all()

    def _write(self, metrics: Mapping[str, float], weights: Weights | None) -> None:
        decided, spec, recipe = self.decided, self.decided.spec, self.recipe
        card = model_card(spec, recipe=recipe, lineage=decided.lineage, metrics=metrics)

        def add_files(folder: Path) -> None:
            self._add_files(folder, metrics)

        if spec.adapter and spec.adapter.output == "adapter":
            save_adapter(
                self.trainer.model,
                tokenizer=recipe.tokenizer,
                folder=self.directory.model,
                card=card,
                base_model=decided.base_name,
                classes=recipe.classes,
                add_files=add_files,
            )
        else:
            model = self.trainer.model
            save_model(
                merge_adapter(model, decided.base) if spec.adapter else recipe.model,
                tokenizer=recipe.tokenizer,
                folder=self.directory.model,
                card=card,
                use_cache=decided.use_cache,
                weights=weights,
                add_files=add_files,
            )
        self.clock.stop()
        write_json(self.directory.lineage, {**decided.lineage, "seconds": self.clock.seconds})

    @property
    def _step(self) -> int:
        return self.trainer.state.global_step if self.best_step is None else self.best_step

    def _evaluate(self, split: str) -> dict[str, float]:
        self.clock.enter(Phase.EVALUATING)
        self.trainer.evaluate(self.recipe.rows[split], metric_key_prefix=split)
        return dict(self.trainer.progress.metrics[split])

    def _keep_predictions(self) -> None:
        measured, predictions = self.trainer.measured, self.recipe.predictions
        if measured and predictions:
            folder = self.directory.evaluations
            folder.mkdir(exist_ok=True)
            write_predictions(folder / PREDICTIONS, predictions(measured))

    def _add_files(self, folder: Path, metrics: Mapping[str, float]) -> None:
        evaluations = self.directory.evaluations
        steps = {"eval": self._step, "test": self.trainer.state.global_step}
        details = {
            split: found
            for split, step in steps.items()
            if (found := kept_details(evaluations, split=split, step=step))
        }
        write_json(
            folder / REPORT, {"step": self._step, "metrics": dict(metrics), "details": details}
        )
        if (predictions := evaluations / PREDICTIONS).exists():
            shutil.copyfile(predictions, folder / PREDICTIONS)
        lineage = {**self.decided.lineage, "seconds": self.clock.seconds}  # of phases that are over
        write_json(folder / self.directory.lineage.name, lineage)
        if self.recipe.add_files:
            self.recipe.add_files(folder)
        self.end_tracking()  # last: trackers are told of a success
        copy_tracking(self.directory.tracking, folder / self.directory.tracking.name)
