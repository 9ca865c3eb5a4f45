"""A run from its directory to its outcome: the standard workflow, top to bottom."""

import os
import shutil
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from trainer_core.errors import MaxRuntimeReached, TooFewRows
from trainer_core.events import (
    JsonlReporter,
    Logged,
    Phase,
    Reporter,
    Reporters,
    Warned,
)
from trainer_core.rows.checking import MIN_TRAIN_ROWS, SPLITS, Survey
from trainer_core.rows.files import InputFile
from trainer_core.run_directory import Inputs, Outcome, Result, RunDirectory, write_json
from trainer_core.spec import (
    Facts,
    JobSpec,
    Resolution,
    check_built,
    parse_spec,
    resolve,
    unused,
)
from trainer_core.spec.resolving import num_optimizer_steps
from trainer_core.training import processes
from trainer_core.training.adapters import add_adapter
from trainer_core.training.arguments import training_arguments
from trainer_core.training.caching import Cache
from trainer_core.training.checkpoints import step_of, steps_saved
from trainer_core.training.clock import PhaseClock
from trainer_core.training.devices import Device, choose_device
from trainer_core.training.directories import clear_leftovers
from trainer_core.training.failures import typed_error
from trainer_core.training.finishing import Finish
from trainer_core.training.freezing import freeze
from trainer_core.training.limits import check_limits
from trainer_core.training.lineage import data_hashes, describe_origin, describe_run, with_rows
from trainer_core.training.loop import RunLoop
from trainer_core.training.models import BaseModel, open_model
from trainer_core.training.packing import has_flash_attention
from trainer_core.training.quantizing import choose_quantizing
from trainer_core.training.recipe import Recipe, Setup
from trainer_core.training.resuming import Checkpoint, keep_choices, resumable, tell_resumption
from trainer_core.training.scratch import begin_anew
from trainer_core.training.sentence_folders import SentenceForm, read_form
from trainer_core.training.stacks import layer_classes
from trainer_core.training.steps import padding_share
from trainer_core.training.stopping import StopAsked, Stopping
from trainer_core.training.surveying import known_survey
from trainer_core.training.tasks import find_task
from trainer_core.training.tracking import Tracking, tracked_run
from trainer_core.training.trainer import RunTrainer

_CACHE = "cache"  # of what is made of rows, where it is not kept for other runs


def run(
    directory: RunDirectory, *, stopping: Stopping, watchers: Sequence[Reporter] = ()
) -> Outcome:
    """Carry out a run and return how it ended; `outcome.json` is written last of all."""
    if processes.is_first():
        _clear_earlier_end(directory)
    processes.wait_for_all()
    with _events_of(directory) as events:
        told = Reporters([*events, *watchers])
        tracking = Tracking(told)
        attempt = Attempt(directory, Reporters([told, tracking]), stopping, tracking)
        try:
            outcome = attempt.carry_out()
        except StopAsked:
            outcome = attempt.stopped()
        except Exception as error:  # noqa: BLE001 - the one place where all end: as a typed error
            outcome = attempt.failed(error)
        tracking.close(outcome.result)
        attempt.leave_cache()
    return _conclude(directory, outcome)


@contextmanager
def _events_of(directory: RunDirectory) -> Iterator[list[Reporter]]:
    """Give the reporter that keeps the events; of several processes the first one tells them."""
    if not processes.is_first():
        yield []
        return
    with JsonlReporter(directory.events) as events:
        yield [events]


def _conclude(directory: RunDirectory, outcome: Outcome) -> Outcome:
    """Write how a run ended; of several processes the first that fails says why."""
    if processes.is_first():
        shutil.rmtree(directory.path / _CACHE, ignore_errors=True)
    if processes.num_processes() > 1 and (earlier := directory.read_outcome()):
        return earlier
    if processes.is_first() or outcome.result is Result.FAILED:
        write_json(directory.outcome, outcome.to_dict())
    return outcome


def _clear_earlier_end(directory: RunDirectory) -> None:
    """Forget how an earlier attempt ended, and the request that ended it."""
    if directory.outcome.exists():
        directory.outcome.unlink()
        directory.stop.unlink(missing_ok=True)
    directory.checkpoints.mkdir(exist_ok=True)
    clear_leftovers(directory.path)
    clear_leftovers(directory.checkpoints)


@dataclass(frozen=True, slots=True)
class _Given:
    """What a run starts from."""

    spec: JobSpec  # as given
    inputs: Inputs
    files: Mapping[str, InputFile]  # by split
    hashes: Mapping[str, str]  # of the files
    found: Survey
    device: Device
    cache: Cache


@dataclass(frozen=True, slots=True)
class _Decided:
    """What is settled before the first row is tokenized."""

    spec: JobSpec  # resolved
    base: BaseModel
    lineage: dict[str, Any]
    checkpoint: Checkpoint | None  # to go on from
    use_cache: bool | None  # the base model's setting, which training turns off


class Attempt:
    """One attempt at a run, and how far it came."""

    def __init__(
        self,
        directory: RunDirectory,
        reporter: Reporter,
        stopping: Stopping,
        tracking: Tracking,
    ) -> None:
        self._directory = directory
        self._reporter = reporter
        self._stopping = stopping
        self._tracking = tracking
        self._clock = PhaseClock(reporter)
        self._spec: JobSpec | None = None  # as far as it is known
        self._cache: Cache | None = None
        self._trainer: RunLoop | None = None

    def carry_out(self) -> Outcome:
        """Read, decide, build, train, measure, save."""
        began = time.monotonic()
        with self._stopping.droppable():
            given = self._read()
        seconds = given.spec.resources.max_runtime_seconds
        if seconds is None or not processes.is_first():  # the others learn of it by agreement
            return self._train(given)
        left = max(0.01, began + seconds - time.monotonic())  # zero would be no limit
        with self._stopping.limited(left):
            return self._train(given)

    def _train(self, given: _Given) -> Outcome:
        with self._stopping.droppable():
            decided = self._decide(given)
            recipe = self._build(given, decided)
            decided = self._count(recipe, decided)
            trainer = self._trainer = self._make_trainer(recipe, given, decided)
            processes.wait_for_all()
        self._track(given, decided)
        self._clock.enter(Phase.TRAINING)
        trainer.fit(resume_from=decided.checkpoint.path if decided.checkpoint else None)
        optimizer: Any = trainer.optimizer
        optimizer.eval()  # one that averages puts its averages into the weights; others do nothing
        finish = Finish(
            directory=self._directory,
            reporter=self._reporter,
            clock=self._clock,
            spec=decided.spec,
            lineage=decided.lineage,
            base=decided.base,
            use_cache=decided.use_cache,
            trainer=trainer,
            recipe=recipe,
            best_step=trainer.load_best(),
        )
        metrics = finish.measure()
        self._tracking.close(Result.SUCCEEDED)  # its files go into the model's folder
        finish.save(metrics)
        step, best_step = trainer.state.global_step, finish.best_step
        return Outcome(Result.SUCCEEDED, step=step, best_step=best_step, metrics=metrics)

    def stopped(self) -> Outcome:
        """Return the outcome of an attempt that was asked to stop, or had no more time."""
        if not self._stopping.is_over:
            return self._unfinished(Outcome(Result.STOPPED))
        assert self._spec is not None, "the limit is the spec's"
        error = MaxRuntimeReached(
            f"the attempt reached its limit of {self._spec.resources.max_runtime_seconds} seconds.",
            hint="Raise resources.max_runtime_seconds, or train for fewer steps.",
            param="resources.max_runtime_seconds",
        )
        return self._unfinished(Outcome(Result.FAILED, error=error.to_typed()))

    def failed(self, error: Exception) -> Outcome:
        """Return the outcome of an attempt that an exception ended; the log gets its traceback."""
        with self._directory.log.open("a", encoding="utf-8") as log:
            traceback.print_exception(error, file=log)
        typed = typed_error(error, spec=self._spec, folder=self._directory.path)
        return self._unfinished(Outcome(Result.FAILED, error=typed))

    def _read(self) -> _Given:
        self._clock.enter(Phase.PREPARING)
        spec = self._spec = parse_spec(self._directory.read_spec())
        check_built(spec)
        inputs = self._directory.read_inputs()
        threads = inputs.num_threads
        _use_threads(threads and max(1, threads // processes.num_processes()))
        splits = {"train": inputs.train, "eval": inputs.eval, "test": inputs.test}
        files = {split: file for split, file in splits.items() if file is not None}
        hashes = data_hashes(files)
        files = {split: replace(file, sha256=hashes[split]) for split, file in files.items()}
        cache = self._cache = self._open_cache(inputs)
        mine = known_survey(cache, spec, files) if processes.is_first() else None
        found = processes.of_first(mine)
        assert found is not None, "the first process has looked"
        for problem in unused(found.spec):  # which columns there are says what rows can use
            name = problem.pointer.strip("/").replace("/", ".")
            self._reporter.report(
                Warned("setting_unused", f"{name} {problem.message}.", problem.hint)
            )
        strategy = spec.resources.parallel.strategy
        if strategy != "ddp" and processes.num_processes() == 1:
            message = f"resources.parallel.strategy {strategy} is not used: there is one process."
            self._reporter.report(Warned("setting_unused", message, "Leave it out."))
        if found.num_skipped:
            message = f"{found.num_skipped} bad rows are left out, as data.invalid_rows says."
            self._reporter.report(Warned("rows_skipped", message))
        return _Given(spec, inputs, files, hashes, found, choose_device(inputs, spec), cache)

    def _open_cache(self, inputs: Inputs) -> Cache:
        """Return the cache that the inputs name, or one of this run alone."""
        kept = inputs.cache
        if kept is not None:
            try:
                return Cache(kept.path, max_bytes=kept.max_bytes)
            except OSError as error:
                message = (
                    f"tokens are not kept for other jobs: {kept.path} can't be used ({error})."
                )
                self._reporter.report(Warned("cache_unusable", message))
        return Cache(self._directory.path / _CACHE)

    def leave_cache(self) -> None:
        """Bring the cache back to its size."""
        if self._cache is not None and processes.is_first():
            self._cache.prune()

    def _decide(self, given: _Given) -> _Decided:
        self._clock.enter(Phase.LOADING)
        base = open_model(given.inputs.model)
        if given.spec.scratch is not None:
            base = begin_anew(base, given.spec.scratch)
        origin = describe_origin(given.spec, inputs=given.inputs, hashes=given.hashes)
        checkpoint = self._checkpoint(origin)
        resolution = _resolve(given, base, checkpoint)
        self._spec = resolution.spec
        if warning := check_limits(resolution.spec, base):
            self._reporter.report(Warned("max_length_large", warning, "Set it to 'auto'."))
        base = replace(base, quantizing=choose_quantizing(resolution.spec, given.device))
        self._tell(resolution)
        lineage = describe_run(
            origin, resolution=resolution, found=given.found, device=given.device
        )
        self._write(self._directory.lineage, lineage)
        if checkpoint:
            tell_resumption(checkpoint, lineage=lineage, reporter=self._reporter)
        use_cache = getattr(base.config, "use_cache", None)
        return _Decided(resolution.spec, base, lineage, checkpoint, use_cache)

    def _checkpoint(self, origin: Mapping[str, Any]) -> Checkpoint | None:
        """Return what to go on from; the first process looks, and clears away what is of no use."""
        found = None
        if processes.is_first():
            found = resumable(self._directory.checkpoints, origin=origin, reporter=self._reporter)
        return processes.of_first(found)

    def _write(self, path: Path, values: Mapping[str, Any]) -> None:
        if processes.is_first():
            write_json(path, values)

    def _tell(self, resolution: Resolution) -> None:
        spec = resolution.spec.model_dump(mode="json")
        choices = [asdict(choice) for choice in resolution.choices]
        self._write(self._directory.resolved, {"spec": spec, "choices": choices})
        for choice in resolution.choices:
            message = f"{choice.pointer.strip('/').replace('/', '.')}: {choice.value}, {choice.why}"
            self._reporter.report(Logged(message, asdict(choice)))

    def _build(self, given: _Given, decided: _Decided) -> Recipe:
        setup = Setup(
            spec=decided.spec,
            found=given.found,
            files=given.files,
            base=decided.base,
            cache=given.cache,
            device=given.device,
            reporter=self._reporter,
            enter=self._clock.enter,
        )
        recipe = find_task(decided.spec.task).build(setup)
        for split, number in recipe.num_truncated.items():
            if number:
                total = given.found.num_rows[split]
                message = (
                    f"{number} of {total} {split} rows ({number / total:.1%}) have more than "
                    f"{decided.spec.max_length} tokens and were cut."
                )
                self._reporter.report(Warned("rows_truncated", message, "Raise max_length."))
        return recipe

    def _count(self, recipe: Recipe, decided: _Decided) -> _Decided:
        """Write down how many rows are used, now that the task has left out what it can't use."""
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
        lineage = with_rows(decided.lineage, num_rows=num_rows)
        self._write(self._directory.lineage, lineage)
        return replace(decided, lineage=lineage)

    def _make_trainer(self, recipe: Recipe, given: _Given, decided: _Decided) -> RunLoop:
        spec = decided.spec
        model = add_adapter(recipe, spec.adapter) if spec.adapter else recipe.model
        if spec.training.freeze:
            num_frozen = freeze(recipe.model, spec.training.freeze)
            message = f"{num_frozen} of {recipe.model.num_parameters()} weights are frozen"
            self._reporter.report(Logged(message, {"num_frozen": num_frozen}))
        arguments = training_arguments(
            spec,
            folder=self._directory.checkpoints,
            device=given.device,
            num_steps=num_optimizer_steps(spec, num_train_rows=len(recipe.rows["train"])),
            has_evaluation="eval" in recipe.rows,
            layers=layer_classes(recipe.model),
        )
        make = recipe.trainer_class or RunTrainer
        trainer: RunLoop = make(
            recipe,
            model=model,
            spec=spec,
            arguments=arguments,
            lineage=decided.lineage,
            reporter=self._reporter,
            stopping=self._stopping,
        )
        num_rows = recipe.rows["train"].num_source_rows
        self._reporter.report(_batches_described(trainer, num_rows=num_rows))
        return trainer

    def _track(self, given: _Given, decided: _Decided) -> None:
        if not processes.is_first():
            return
        done = step_of(decided.checkpoint.path) if decided.checkpoint else 0
        run = tracked_run(self._directory, spec=decided.spec, inputs=given.inputs, first_step=done)
        self._tracking.begin(decided.spec.tracking, run)

    def _unfinished(self, outcome: Outcome) -> Outcome:
        """Return an outcome with how far the attempt came."""
        saved = steps_saved(self._directory.checkpoints)
        state = self._trainer.state if self._trainer else None
        return Outcome(
            outcome.result,
            step=max([state.global_step if state else 0, *saved]),
            best_step=state.best_global_step if state else None,
            error=outcome.error,
            checkpoint=f"checkpoints/checkpoint-{saved[-1]}" if saved else None,
        )


def _use_threads(number: int | None) -> None:
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if number is not None:
        torch.set_num_threads(number)
        os.environ["RAYON_NUM_THREADS"] = str(number)  # the tokenizers' threads
    # Said aloud, the tokenizers do not warn of data loader workers.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false" if number == 1 else "true")


def _resolve(given: _Given, base: BaseModel, checkpoint: Checkpoint | None) -> Resolution:
    """Decide what the spec leaves open, as it was decided for the checkpoint if there is one."""
    spec, facts = given.found.spec, _facts(given, base)
    if checkpoint is None:
        return resolve(spec, facts)
    spec, kept = keep_choices(spec, checkpoint, device=given.device)
    resolution = resolve(spec, facts)
    return Resolution(resolution.spec, (*kept, *resolution.choices))


def _facts(given: _Given, base: BaseModel) -> Facts:
    form = read_form(base.path, base.config) if given.spec.pools_tokens else None
    lengths = (base.usual_length, form.max_length if form else None)
    return Facts(
        num_train_rows=given.found.num_rows["train"],
        num_eval_rows=given.found.num_rows["eval"],
        num_weights=base.num_weights,
        num_processes=processes.num_processes(),
        max_positions=min((n for n in lengths if n is not None), default=None),
        has_chat_template=bool(base.tokenizer.chat_template),
        device=given.device.kind,
        device_memory_bytes=given.device.memory_bytes,
        has_fast_bf16=given.device.has_fast_bf16,
        can_recompute=base.can_recompute,
        has_flash_attention=given.device.has_fast_bf16 and has_flash_attention(base.config),
        num_logits_per_token=_num_logits_per_token(given.spec, base),
        **_pooling_facts(form),
    )


def _num_logits_per_token(spec: JobSpec, base: BaseModel) -> int:
    is_chunked = spec.has_chunked_loss and not spec.training.compile
    if not spec.has_token_logits or is_chunked:
        return 0
    return int(base.config.get_text_config().vocab_size)


def _pooling_facts(form: SentenceForm | None) -> dict[str, Any]:
    if form is None:
        return {}
    return {
        "pooling": form.pooling,
        "is_normalized": form.is_normalized,
        "is_embedding_model": form.is_given,
    }


def _batches_described(trainer: RunLoop, *, num_rows: int) -> Logged:
    order = trainer.order
    share = padding_share(order, cutting=trainer.cutting)
    num_tokens = int(order.lengths.sum(dtype="int64"))
    rows = f"{num_rows} rows" + (f" in {len(order)} parts" if len(order) != num_rows else "")
    return Logged(
        f"{rows} of {num_tokens} tokens; {share:.1%} of the positions are padding",
        {
            "num_rows": num_rows,
            "num_examples": len(order),  # what a step is of: a row can be several
            "num_tokens": num_tokens,
            "padding_share": round(share, 4),
        },
    )
