"""From what is decided to the trainer: the task's recipe, the rows that it uses, the arguments."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from trainer_core.errors import FieldProblem, InvalidSpec, TooFewRows
from trainer_core.events import Logged, Reporter, Warned
from trainer_core.rows.checking import MIN_TRAIN_ROWS, SPLITS
from trainer_core.run_directory import LINEAGE, RunDirectory, write_json
from trainer_core.spec import JobSpec
from trainer_core.spec.resolving import num_optimizer_steps
from trainer_core.training.deciding import Decided
from trainer_core.training.loop.arguments import training_arguments
from trainer_core.training.loop.lineage import with_rows
from trainer_core.training.loop.run_loop import RunLoop
from trainer_core.training.loop.steps import padding_share
from trainer_core.training.loop.trainer import RunTrainer
from trainer_core.training.models.freezing import freeze
from trainer_core.training.models.saving import say_as_finished
from trainer_core.training.models.stacks import layer_classes
from trainer_core.training.preparing import Given
from trainer_core.training.process import processes
from trainer_core.training.process.clock import PhaseClock
from trainer_core.training.process.stopping import Stopping
from trainer_core.training.recipes.adapters import add_adapter
from trainer_core.training.recipes.recipe import Recipe, Setup
from trainer_core.training.tasks import find_task


@dataclass(frozen=True, slots=True)
class Built:
    """What is ready to train."""

    decided: Decided  # its lineage says how many rows are used
    recipe: Recipe
    trainer: RunLoop


def build(
    given: Given,
    decided: Decided,
    *,
    directory: RunDirectory,
    clock: PhaseClock,
    reporter: Reporter,
    stopping: Stopping,
) -> Built:
    """Tokenize the rows, load the model and make the trainer of both."""
    recipe = _recipe(given, decided, clock=clock, reporter=reporter)
    _check_processes(recipe)
    decided = _counted(recipe, decided)
    if processes.is_first():
        write_json(directory.lineage, decided.lineage)
    model = learning_model(recipe, decided.spec, reporter=reporter)
    arguments = training_arguments(
        decided.spec,
        folder=directory.checkpoints,
        device=given.device,
        num_steps=num_optimizer_steps(decided.spec, num_train_rows=len(recipe.rows["train"])),
        has_evaluation="eval" in recipe.rows,
        layers=layer_classes(recipe.model),
    )
    make = recipe.trainer_class or RunTrainer
    trainer: RunLoop = make(
        recipe,
        model=model,
        spec=decided.spec,
        arguments=arguments,
        complete=partial(_complete, recipe, decided),
        reporter=reporter,
        stopping=stopping,
    )
    num_rows = decided.lineage["num_rows"]["train"]
    reporter.report(_batches_described(trainer, recipe, num_rows=num_rows))
    return Built(decided, recipe, trainer)


def _complete(recipe: Recipe, decided: Decided, checkpoint: Path) -> None:
    """Write beside the weights what the Trainer does not, and have the model say what it is."""
    write_json(checkpoint / LINEAGE, decided.lineage)
    say_as_finished(
        checkpoint,
        base_model=decided.base_name,
        classes=recipe.classes,
        use_cache=decided.use_cache,
    )


def _recipe(given: Given, decided: Decided, *, clock: PhaseClock, reporter: Reporter) -> Recipe:
    setup = Setup(
        spec=decided.spec,
        found=given.found,
        files=given.files,
        base=decided.base,
        cache=given.cache,
        device=given.device,
        reporter=reporter,
        enter=clock.enter,
    )
    recipe = find_task(decided.spec.task).build(setup)
    for split, number in recipe.num_truncated.items():
        if number:
            total = given.found.num_rows[split]
            message = (
                f"{number} of {total} {split} rows ({number / total:.1%}) have more than "
                f"{decided.spec.max_length} tokens and were cut."
            )
            reporter.report(Warned("rows_truncated", message, "Raise max_length."))
    return recipe


def _check_processes(recipe: Recipe) -> None:
    count = processes.num_processes()
    if recipe.is_step_whole and count > 1:
        problem = (
            "the loss compares all rows of an optimizer step with each other, and each of "
            f"{count} processes would see its share of them alone"
        )
        raise InvalidSpec([FieldProblem("/resources/gpus", problem, "Set it to 1.")])


def _counted(recipe: Recipe, decided: Decided) -> Decided:
    """Add how many rows are used, now that the task has left out what it can't use."""
    num_rows = dict.fromkeys(SPLITS, 0)
    num_rows |= {split: rows.num_source_rows for split, rows in recipe.rows.items()}
    if num_rows["train"] < MIN_TRAIN_ROWS:
        raise TooFewRows(
            f"{num_rows['train']} rows are left to train on once those with nothing to learn "
            f"are left out; at least {MIN_TRAIN_ROWS} are needed.",
            hint="Add rows, or raise max_length.",
            param="data.train",
            detail={"num_rows": num_rows["train"], "min_rows": MIN_TRAIN_ROWS},
        )
    return replace(decided, lineage=with_rows(decided.lineage, num_rows=num_rows))


def learning_model(recipe: Recipe, spec: JobSpec, *, reporter: Reporter) -> Any:
    """Return the model with its adapter, or with some of its weights frozen, if so asked."""
    if spec.adapter:
        return add_adapter(recipe, spec.adapter)  # no weight is frozen beside one
    if spec.training.freeze:
        num_frozen = freeze(recipe.model, spec.training.freeze)
        message = f"{num_frozen} of {recipe.model.num_parameters()} weights are frozen"
        reporter.report(Logged(message, {"num_frozen": num_frozen}))
    return recipe.model


def _batches_described(trainer: RunLoop, recipe: Recipe, *, num_rows: int) -> Logged:
    order = trainer.order
    num_tokens = int(order.lengths.sum(dtype="int64"))
    rows = f"{num_rows} rows" + (f" in {len(order)} parts" if len(order) != num_rows else "")
    message = f"{rows} of {num_tokens} tokens"
    fields: dict[str, float] = {
        "num_rows": num_rows,
        "num_examples": len(order),  # what a step is of: a row can be several
        "num_tokens": num_tokens,
    }
    if recipe.is_step_whole:  # the task cuts the step itself, by rules of its own
        return Logged(message, fields)
    share = padding_share(order, cutting=trainer.cutting)
    fields = {**fields, "padding_share": round(share, 4)}
    return Logged(f"{message}; {share:.1%} of the positions are padding", fields)
