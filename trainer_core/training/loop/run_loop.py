"""What a run needs of any `transformers.Trainer` and what none has; each change says why.

Row order, loaders, checkpoints, the best model, stopping, resuming and telling are here, for
whatever loss. `RunLoop` goes before a trainer's class: `class RunTrainer(RunLoop, RecipeTrainer)`.
"""

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, seed_worker

from trainer_core.events import CheckpointSaved, Phase, PhaseEntered, Reporter, Warned
from trainer_core.run_directory import RunDirectory, verified_manifest
from trainer_core.spec import JobSpec
from trainer_core.training.data.batching import DrawnRows, RowOrder, longest_first
from trainer_core.training.loop.arguments import is_greater_better
from trainer_core.training.loop.callbacks import (
    EarlyStoppingCallback,
    StoppingCallback,
    evaluations,
)
from trainer_core.training.loop.checkpoints import checkpoint_path, rotate
from trainer_core.training.loop.reporting import (
    ReportingCallback,
    check_finite,
    diverged,
    without_timings,
)
from trainer_core.training.loop.steps import (
    Cutting,
    EvaluationSampler,
    MicroBatch,
    StepLoader,
    StepSampler,
    pass_tokens,
)
from trainer_core.training.metrics.evaluations import keep_details
from trainer_core.training.process import processes
from trainer_core.training.process.processes import whole_or_absent_for_all
from trainer_core.training.process.stopping import StopAsked, Stopping
from trainer_core.training.recipes.recipe import Measured, Recipe

if TYPE_CHECKING:
    from transformers import Trainer as _Base
else:
    _Base = object  # whichever trainer comes after it in a class


class RunLoop(_Base):
    """Trains a recipe so that it can be stopped anywhere and go on as if it never was."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        model: Any,
        spec: JobSpec,
        arguments: TrainingArguments,
        complete: Callable[[Path], None],
        reporter: Reporter,
        stopping: Stopping,
    ) -> None:
        self._recipe = recipe
        self._spec = spec
        self._complete = complete  # a checkpoint, with what its model is to say
        self._reporter = reporter
        self._stopping = stopping
        self._weights_step: int | None = None  # of the best model, once it is loaded
        self.order = RowOrder(
            recipe.rows["train"].lengths,
            batch_size=spec.training.batch_size,
            seed=spec.training.seed,
            is_grouped=not recipe.is_step_whole,
        )
        self.cutting = _cutting(recipe, spec, arguments, model=model, order=self.order)
        self.progress = ReportingCallback(reporter, num_tokens_until=self.order.num_tokens_until)
        self.measured: Measured | None = None  # by the latest evaluation
        super().__init__(
            model=model,
            args=arguments,
            data_collator=recipe.collate,
            train_dataset=recipe.rows["train"],
            eval_dataset=recipe.rows.get("eval"),
            processing_class=recipe.tokenizer,
            callbacks=[self.progress, *_early_stopping(spec), StoppingCallback(stopping)],
        )
        self.remove_callback(PrinterCallback)

    def fit(self, *, resume_from: Path | None) -> None:
        """Train to the end, or raise StopAsked with a checkpoint saved if one was asked for.

        A request to finish is the end, once a step was taken.
        """
        self._stopping.check(can_finish=resume_from is not None)
        # At step 0, as the Trainer names it; what it finds is in every checkpoint's history.
        self.args.eval_on_start = self._spec.evaluation.baseline is True and resume_from is None
        try:
            self.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
        except StopAsked:  # while evaluating; the step before it is done
            self.save_if_asked()
            raise
        self._stopping.check(can_finish=self.state.global_step > 0)
        self._check_weights(self.state.global_step)

    def save_if_asked(self) -> None:
        """Save the last step, unless it is saved, its weights are gone or nobody wants it."""
        step = self.state.global_step
        has_weights = step > 0 and self._weights_step in (None, step)
        if self._stopping.request.is_saving and has_weights and not self._is_saved():
            self._save_checkpoint(self.model, None)

    def load_best(self) -> int | None:
        """Load the weights of the best evaluation; return its step, None if none was saved."""
        step = self.state.best_global_step
        if step is None or not checkpoint_path(self._folder, step=step).exists():
            return None
        if step != self.state.global_step:
            self.state.best_model_checkpoint = str(checkpoint_path(self._folder, step=step))
            _share_out(self.model)
            self._load_best_model()
        self._weights_step = step
        return step

    def evaluated(self) -> Mapping[str, float]:
        """Return what the evaluation rows gave for the weights in hand, empty if nothing yet."""
        step = self._weights_step
        return self.metrics_at(self.state.global_step if step is None else step)

    def metrics_at(self, step: int) -> dict[str, float]:
        """Return what the evaluation after a step measured; empty if there was none."""
        entries = [e for e in evaluations(self.state.log_history) if e["step"] == step]
        if not entries:
            return {}
        named = {
            name.removeprefix("eval_"): float(value)
            for name, value in entries[-1].items()
            if name.startswith("eval_") and math.isfinite(value)  # JSON has no infinity
        }
        return without_timings(named)

    @property
    def _folder(self) -> Path:
        return Path(self.args.output_dir or "")

    @property
    def _evaluations(self) -> Path:
        return RunDirectory(self._folder.parent).evaluations

    def _is_saved(self) -> bool:
        return checkpoint_path(self._folder, step=self.state.global_step).exists()

    def get_train_dataloader(self) -> DataLoader[Any]:
        # The stock samplers shuffle with the global generator, so that the order can't be had
        # again; and its batches are of a fixed size, whatever the lengths of the rows.
        sampler = StepSampler(
            self.order,
            cutting=self.cutting,
            process_index=self.args.process_index,
            num_processes=self.args.world_size,
        )
        rows = self._drawn(self._recipe.rows["train"], sampler)
        return StepLoader(
            rows, sampler=sampler, collate=self._recipe.collate, **self._loader_options()
        )

    def _get_dataloader(  # noqa: PLR0917
        self,
        dataset: Any,
        description: str,
        batch_size: int,
        sampler_fn: Any = None,
        is_training: bool = False,
        dataloader_key: str | None = None,
    ) -> DataLoader[Any]:
        options = {"collate_fn": self._recipe.collate, **self._loader_options()}
        if self._is_measured_by_row:
            # The stock one's batches are of a fixed size: the longest of few rows would pad many.
            batches = EvaluationSampler(
                dataset.lengths, batch_size=batch_size, cutting=self.cutting
            )
            return DataLoader(self._drawn(dataset, batches), batch_sampler=batches, **options)
        sampler = longest_first(dataset.lengths).tolist()
        loader: DataLoader[Any] = DataLoader(
            self._drawn(dataset, sampler), batch_size=batch_size, sampler=sampler, **options
        )
        return self.accelerator.prepare(loader)  # type: ignore[no-any-return]

    @property
    def _is_measured_by_row(self) -> bool:
        """Whether nothing that is measured depends on which rows share a batch.

        Several processes need batches of one size; to generate, fewer passes are the cheaper ones.
        """
        is_loss_of_rows = self._recipe.trainer_class is None and not self._recipe.is_step_whole
        return is_loss_of_rows and self.args.world_size == 1 and not self._spec.is_generating

    def _drawn(self, rows: Any, sampler: Iterable[Any]) -> Any:
        draw = self._recipe.draw
        if draw is None:
            return rows
        return DrawnRows(rows, draw=draw, seed=self.args.seed, sampler=sampler)

    def _loader_options(self) -> dict[str, Any]:
        # The stock loader draws from the global generator whenever it is iterated: an evaluation
        # would change the dropout of all steps after it, and a resumed run differ.
        return {
            "num_workers": self.args.dataloader_num_workers,
            "pin_memory": self.args.dataloader_pin_memory,
            "generator": torch.Generator().manual_seed(self.args.seed),
            "worker_init_fn": partial(
                seed_worker,
                num_workers=self.args.dataloader_num_workers,
                rank=self.args.process_index,
            ),
        }

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        # The stock one counts all parameters at each step, 12 % of a small model's step.
        return 0

    def training_step(
        self, model: Any, inputs: Any, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        # The stock one accumulates over a fixed number of batches, each of which it fetches alone.
        step: list[MicroBatch] = inputs
        losses = []
        for number, micro_batch in enumerate(step, 1):
            divisor: Any = math.inf if micro_batch.is_ballast else num_items_in_batch
            with self._syncing(model, is_last=number == len(step)):
                losses.append(super().training_step(model, micro_batch.inputs, divisor))
        loss = torch.stack(losses).sum() if len(losses) > 1 else losses[0]
        self.progress.add_loss(loss)  # the loss of the latest step is nowhere else
        return loss

    def _syncing(self, model: Any, *, is_last: bool) -> AbstractContextManager[Any]:
        """Return a context in which gradients are averaged over processes after the last pass."""
        is_alone = self.args.world_size == 1
        if is_last or is_alone or self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            return nullcontext()
        return self.accelerator.no_sync(model=model)  # type: ignore[no-any-return]

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        if self.is_in_train:
            self._reporter.report(PhaseEntered(Phase.EVALUATING))
        metrics = super().evaluate(*args, **kwargs)
        if self.measured and self._recipe.details and self.is_world_process_zero():
            details = self._recipe.details(self.measured)
            step, split = self.state.global_step, self.measured.split
            keep_details(self._evaluations, split=split, step=step, details=details)
        if self.is_in_train:
            done = self.state.global_step / max(1, self.state.max_steps)
            self._reporter.report(PhaseEntered(Phase.TRAINING, fraction=done))
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        if f"eval_{self.args.metric_for_best_model}" not in metrics:
            return False  # undefined on these rows; a warning said so
        is_best: bool = super()._determine_best_metric(metrics, trial)
        # The stock one may remember a best step that was never saved.
        if is_best and self.args.save_strategy != SaveStrategy.NO:
            self.control.should_save = True
        return is_best

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # The stock one writes in place, syncs nothing, rotates by the files' clocks and adds a
        # pickle of its arguments.
        step = self.state.global_step
        check_finite(float(self._tr_loss), what="the training loss", step=step)
        self._check_weights(step)
        path = checkpoint_path(self._folder, step=step)
        is_best = self.state.best_global_step == step
        with whole_or_absent_for_all(path) as partial_path:
            folder = str(partial_path)
            self.save_model(folder, _internal_call=True)
            self._save_optimizer_and_scheduler(folder)
            self._save_scaler(folder)
            self._save_rng_state(folder)
            if self.is_world_process_zero():
                (partial_path / TRAINING_ARGS_NAME).unlink(missing_ok=True)
                self._complete(partial_path)
                self.state.save_to_json(str(partial_path / TRAINER_STATE_NAME))
        if self.is_world_process_zero():
            best_step = self.state.best_global_step
            rotate(self._folder, keep=self._spec.checkpoints.keep, best_step=best_step)
        self._reporter.report(
            CheckpointSaved(
                step=step,
                path=f"{self._folder.name}/{path.name}",
                is_best=is_best,
                metrics=self.metrics_at(step),
            )
        )

    def _check_weights(self, step: int) -> None:
        """Raise Diverged for weights that are no numbers: the loss shows it a step later."""
        model: Any = self.model
        broken = next((n for n, w in model.named_parameters() if not _is_finite(w)), None)
        if processes.is_any(here=broken is not None):
            what = f"the weight {broken}" if broken else "a weight of another process"
            raise diverged(f"{what} is NaN or infinite after step {step}", step=step)

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        # The stock one knows the best checkpoint by its path at the time, and does not verify it.
        begun: tuple[int, int] = super()._init_training_state(*args, **kwargs)
        self.state.best_model_checkpoint = None
        best = self.state.best_global_step
        if best and verified_manifest(checkpoint_path(self._folder, step=best)) is None:
            self.state.best_global_step = self.state.best_metric = None
            message = (
                f"the best model so far, of step {best}, is lost; the best from here on counts."
            )
            self._reporter.report(Warned("best_checkpoint_lost", message))
        return begun

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None
    ) -> Any:
        prepared = super()._prepare_for_training(  # type: ignore[no-untyped-call]
            max_steps, train_dataloader, resume_from_checkpoint
        )
        if resume_from_checkpoint and self._is_evaluation_owed():
            # A stop came before the evaluation after the step; the best model depends on it.
            self.progress.begin(self.state.global_step)  # training itself begins later
            self._load_rng_state(resume_from_checkpoint)
            self._determine_best_metric(self._evaluate(None, None), None)
            self.control.should_save = False  # this very checkpoint was resumed from
        return prepared

    def _is_evaluation_owed(self) -> bool:
        step = self.state.global_step
        match self.args.eval_strategy:
            case IntervalStrategy.STEPS:
                assert self.args.eval_steps, "the spec asks for steps with this strategy"
                every = int(self.args.eval_steps)
            case IntervalStrategy.EPOCH:
                every = self.order.num_steps
            case _:
                return False
        is_due = step % every == 0 or step >= max(1, self.state.max_steps)
        is_due |= self._stopping.look() and self._stopping.is_finishing
        return is_due and step > 0 and not self.metrics_at(step)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # The stock one takes a step before it looks whether there is one left to take.
        if not (
            self.control.should_training_stop or self.state.global_step >= self.state.max_steps
        ):
            super()._run_epoch(*args, **kwargs)  # type: ignore[no-untyped-call]


def _is_finite(weight: Any) -> bool:
    """Return whether a weight that learns, or this process's share of it, is all numbers."""
    if not weight.requires_grad:
        return True
    share = weight.detach()
    share = share.to_local() if isinstance(share, DTensor) else share
    return bool(share.isfinite().all())


def _share_out(model: Any) -> None:
    """Let FSDP's modules hold their shares again: an evaluation leaves the outermost one whole."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _cutting(
    recipe: Recipe, spec: JobSpec, arguments: TrainingArguments, *, model: Any, order: RowOrder
) -> Cutting:
    """Return how steps are cut: a micro-batch holds as many tokens as `micro_batch_size` long rows.

    The longest row counts, so that memory that suffices for its step suffices for any other.
    """
    assert spec.training.micro_batch_size != "auto", "the spec is resolved before"
    if recipe.is_step_whole:
        return Cutting(max_tokens=sys.maxsize, pass_tokens=math.inf)
    num_rows = spec.training.micro_batch_size * arguments.world_size
    num_weights = sum(weight.numel() for weight in model.parameters())
    return Cutting(
        max_tokens=num_rows * int(order.lengths.max()),
        pass_tokens=pass_tokens(num_weights=num_weights, device=arguments.device.type),
    )


def _early_stopping(spec: JobSpec) -> list[EarlyStoppingCallback]:
    rule, metric = spec.training.early_stopping, spec.evaluation.metric
    if rule is None:
        return []
    return [EarlyStoppingCallback(rule, metric=metric, is_greater_better=is_greater_better(spec))]
