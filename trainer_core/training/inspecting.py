"""What a job would do, found out without doing it: its tokens, its choices, what it takes.

The model is made on the meta device, where it has all of its weights and none of their numbers; so
the task builds its recipe as for a run, on a sample of the rows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from transformers.utils import logging

from trainer_core.errors import LuthierError
from trainer_core.events import ListReporter, Warned
from trainer_core.inspection import Estimate, Findings, Request, Seconds, Target, Tokens
from trainer_core.rows.checking import Survey, look_through
from trainer_core.rows.files import InputFile
from trainer_core.run_directory import Inputs, RunDirectory
from trainer_core.spec import JobSpec, parse_spec, resolve
from trainer_core.spec.estimating import Memory, estimate_memory, estimate_seconds
from trainer_core.spec.resolving import Resolution, num_evaluations, num_optimizer_steps
from trainer_core.training.building import learning_model
from trainer_core.training.data.caching import Cache
from trainer_core.training.deciding import facts_of
from trainer_core.training.limits import check_limits
from trainer_core.training.loop.arguments import check_arguments
from trainer_core.training.models.base_model import BaseModel, open_model
from trainer_core.training.models.scratch import begin_anew
from trainer_core.training.preparing import Given
from trainer_core.training.process.devices import Device
from trainer_core.training.process.failures import typed_error
from trainer_core.training.recipes.recipe import Recipe, Setup
from trainer_core.training.rendering import render
from trainer_core.training.room import estimate_need
from trainer_core.training.tasks import find_task

_NUM_EXAMPLES = 3
_PERCENTILES = (50, 90, 95, 99)
_NO_LIMIT = 1_048_576  # tokens, the most that a spec can say


def inspect(directory: RunDirectory) -> Findings:
    """Return what is found of a job, and write it down; an error is a part of it."""
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    reporter = ListReporter()
    inspection = _Inspection(directory, reporter)
    try:
        findings = inspection.carry_out()
    except Exception as error:  # noqa: BLE001 - whatever a stranger's model can raise
        typed = typed_error(error, relief=None, folder=directory.path)
        findings = replace(inspection.findings, error=typed)
    findings = replace(findings, warnings=tuple(_warnings(reporter)))
    findings.write(directory.path)
    return findings


def _warnings(reporter: ListReporter) -> Iterator[Mapping[str, str]]:
    seen = set()
    for event in reporter.events:
        if isinstance(event, Warned) and event.code not in seen:
            seen.add(event.code)
            yield {"code": event.code, "message": event.message, "hint": event.hint}


@dataclass(frozen=True, slots=True)
class _Known:
    """What all devices have in common."""

    request: Request
    spec: JobSpec  # as given
    inputs: Inputs
    files: Mapping[str, InputFile]
    sampled: Survey  # of the sample, with the classes of all rows
    base: BaseModel

    def given(self, target: Target) -> Given:
        """Return what a run on a device would start from."""
        found = replace(self.sampled, num_rows=self.request.num_rows)
        cache = Cache(self.inputs.train.path.parent / "sampled")  # not for a run: it has all rows
        return Given(self.spec, self.inputs, self.files, {}, found, _device(target), cache)


def _sampled(spec: JobSpec, files: Mapping[str, InputFile], request: Request) -> Survey:
    """Return the sample's rows, each in the split whose file it is in, with the classes of all."""
    own = {split: f"dataset:{split}" if split in files else None for split in ("eval", "test")}
    data = spec.data.model_copy(update=own)
    # What may be wrong with a part of the rows, such as an unseen label, is not with all of them.
    found, problems = look_through(spec.model_copy(update={"data": data}), files)
    assert found is not None, f"a sample that can't be read: {problems}"
    assert not found.num_skipped, f"{found.num_skipped} rows of a sample can't be read again"
    return replace(found, classes=request.classes, class_counts=request.class_counts)


class _Inspection:
    """One inspection, and what it has found so far."""

    def __init__(self, directory: RunDirectory, reporter: ListReporter) -> None:
        self._directory = directory
        self._reporter = reporter
        self.findings = Findings()

    def carry_out(self) -> Findings:
        """Open the model, decide for each device, tokenize the sample, estimate."""
        known = self._read()
        resolved = {target: _resolved(known, target) for target in known.request.targets}
        usable = {t: r for t, r in resolved.items() if isinstance(r, Resolution)}
        refused = [
            Estimate(t, error=e.to_typed())
            for t, e in resolved.items()
            if isinstance(e, LuthierError)
        ]
        self.findings = replace(self.findings, estimates=tuple(refused))
        if not usable:
            return self.findings
        spec = next(iter(usable.values())).spec
        recipe = self._recipe(known, spec)
        whole = recipe
        if any(recipe.num_truncated.values()):
            whole = self._recipe(known, spec.model_copy(update={"max_length": _NO_LIMIT}))
        self._tell_tokens(known, recipe, whole=whole)
        model = learning_model(recipe, spec, reporter=self._reporter)
        count = _Count.of(model, recipe)
        estimates = [
            _estimate(known, target, resolution, recipe, count)
            for target, resolution in usable.items()
        ]
        by_target = {one.target: one for one in (*refused, *estimates)}
        return replace(
            self.findings,
            num_weights=count.num_weights,
            num_trained=count.num_trained,
            estimates=tuple(by_target[target] for target in known.request.targets),
        )

    def _read(self) -> _Known:
        request = Request.read(self._directory.path)
        spec, inputs = parse_spec(self._directory.read_spec()), self._directory.read_inputs()
        given = {"train": inputs.train, "eval": inputs.eval, "test": inputs.test}
        files = {split: file for split, file in given.items() if file is not None}
        base = open_model(inputs.model)
        if spec.scratch is not None:
            base = begin_anew(base, spec.scratch)
        sampled = _sampled(spec, files, request)
        data = spec.data.model_copy(update={"columns": sampled.spec.columns})
        spec = spec.model_copy(update={"data": data})
        return _Known(request, spec, inputs, files, sampled, replace(base, is_hollow=True))

    def _recipe(self, known: _Known, spec: JobSpec) -> Recipe:
        first = known.request.targets[0]
        given = known.given(first)
        setup = Setup(
            spec=spec,
            found=replace(known.sampled, spec=spec),
            files=known.files,
            base=known.base,
            cache=given.cache,
            device=given.device,
            reporter=self._reporter,
            enter=lambda _: None,
        )
        return find_task(spec.task).build(setup)

    def _tell_tokens(self, known: _Known, recipe: Recipe, *, whole: Recipe) -> None:
        num_rows = known.sampled.num_rows
        tokens = {
            split: Tokens(
                num_rows=num_rows[split],
                percentiles=_percentiles(whole.rows[split].lengths),
                share_truncated=recipe.num_truncated.get(split, 0) / num_rows[split],
                share_without_targets=1 - rows.num_source_rows / num_rows[split],
            )
            for split, rows in recipe.rows.items()
        }
        rows = recipe.rows["train"]
        shown = [render(recipe, rows[row]) for row in range(min(_NUM_EXAMPLES, len(rows)))]
        self.findings = replace(self.findings, tokens=tokens, examples=tuple(shown))


@dataclass(frozen=True, slots=True)
class _Count:
    """The weights of a model."""

    num_weights: int
    num_trained: int
    num_computing: int  # those that a token goes through: not the tables of embeddings

    @classmethod
    def of(cls, model: Any, recipe: Recipe) -> "_Count":
        weights = [(weight.numel(), weight.requires_grad) for weight in model.parameters()]
        num_weights = sum(number for number, _ in weights)
        own: Any = recipe.model  # whose layers are untyped
        table, head = own.get_input_embeddings(), own.get_output_embeddings()
        is_head = head is not None and head.weight is table.weight
        return cls(
            num_weights=num_weights,
            num_trained=sum(number for number, is_trained in weights if is_trained),
            num_computing=num_weights - (0 if is_head else table.weight.numel()),
        )


def _device(target: Target) -> Device:
    return Device(target.kind, target.name, target.memory_bytes, target.has_fast_bf16)


def _resolved(known: _Known, target: Target) -> Resolution | LuthierError:
    """Return the spec as it would be decided for a device, or why it can't run there.

    Raises:
        InvalidSpec: it can't run anywhere.
    """
    resolution = resolve(known.spec, facts_of(known.given(target), known.base))
    check_limits(resolution.spec, known.base)
    try:
        check_arguments(resolution.spec, device=_device(target))
    except LuthierError as error:
        return error
    return resolution


def _percentiles(lengths: Any) -> dict[str, int]:
    if not len(lengths):
        return {}
    values = np.percentile(lengths, _PERCENTILES, method="higher").tolist()
    names = [f"p{percentile}" for percentile in _PERCENTILES]
    return {**dict(zip(names, map(int, values), strict=True)), "max": int(lengths.max())}


def _estimate(
    known: _Known, target: Target, resolution: Resolution, recipe: Recipe, count: _Count
) -> Estimate:
    spec, lengths = resolution.spec, recipe.rows["train"].lengths
    num_examples = max(1, _num_examples(known, recipe, "train"))
    num_steps = num_optimizer_steps(spec, num_train_rows=num_examples)
    need = estimate_need(spec, known.base, num_train_rows=num_examples)
    seconds = estimate_seconds(
        spec,
        num_tokens=num_steps * min(spec.training.batch_size, num_examples) * float(lengths.mean()),
        num_measured_tokens=_num_measured_tokens(known, recipe, spec, num_train_rows=num_examples),
        num_weights=count.num_computing,
        device=target.kind,
        num_threads=target.num_threads,
    )
    return Estimate(
        target=target,
        spec=spec.model_dump(mode="json"),
        choices=[asdict(choice) for choice in resolution.choices],
        num_steps=num_steps,
        memory=_memory(
            known, target, spec, count, num_rows=num_examples, longest=int(lengths.max())
        ),
        disk_bytes=need.total_bytes,
        seconds=Seconds(*seconds) if seconds else None,
    )


def _num_examples(known: _Known, recipe: Recipe, split: str) -> int:
    """Return how many examples all rows of a split make: some are left out, some cut in parts."""
    share = len(recipe.rows[split].lengths) / known.sampled.num_rows[split]
    return round(known.request.num_rows[split] * share)


def _num_measured_tokens(
    known: _Known, recipe: Recipe, spec: JobSpec, *, num_train_rows: int
) -> float:
    """Return how many tokens all evaluations read; the test rows are measured once, at the end."""
    times = {"eval": num_evaluations(spec, num_train_rows=num_train_rows), "test": 1}
    return sum(
        times[split] * _num_examples(known, recipe, split) * float(rows.lengths.mean())
        for split, rows in recipe.rows.items()
        if split in times
    )


def _memory(
    known: _Known, target: Target, spec: JobSpec, count: _Count, *, num_rows: int, longest: int
) -> Memory:
    facts = facts_of(known.given(target), known.base)
    length = -(-longest // spec.num_sequences)  # of a row with several texts all are counted
    return estimate_memory(
        spec,
        replace(facts.size, num_weights=count.num_weights, num_trained=count.num_trained),
        device=target.kind,
        num_rows=num_rows,
        length=length,
        most=max(length, spec.num_row_tokens),
    )
