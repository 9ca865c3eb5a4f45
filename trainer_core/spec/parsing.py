"""From JSON values to a JobSpec, with every problem at once, each at its JSON pointer."""

import difflib
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Discriminator, TypeAdapter, ValidationError

from trainer_core.errors import FieldProblem, InvalidSpec
from trainer_core.spec.parts import TrainingSpec
from trainer_core.spec.tasks import JobSpec
from trainer_core.spec.tasks.common import TaskSpec, is_given, unused_field

TASKS: dict[str, type[TaskSpec]] = {
    task.model_fields["task"].default: task for task in typing.get_args(JobSpec)
}

_ADAPTER: TypeAdapter[JobSpec] = TypeAdapter(Annotated[JobSpec, Discriminator("task")])

# Optimizers of the spec that have the moments, and the epsilon, of Adam.
_LIONS = {"lion_32bit", "lion_8bit", "paged_lion_8bit"}
_HAVE_BETAS = _LIONS | {
    "adamw_torch",
    "adamw_torch_fused",
    "adamw_8bit",
    "paged_adamw_32bit",
    "paged_adamw_8bit",
    "ademamix",
    "ademamix_8bit",
    "schedule_free_adamw",
    "schedule_free_radam",
    "stable_adamw",
}
_HAVE_EPSILON = _HAVE_BETAS - _LIONS


def parse_spec(values: object) -> JobSpec:
    """Return the spec that JSON-ready values say, or raise InvalidSpec with every problem."""
    if not isinstance(values, Mapping):
        raise InvalidSpec([FieldProblem("", "a job spec is a JSON object")])
    task = values.get("task")
    if not isinstance(task, str) or task not in TASKS:
        raise InvalidSpec([_task_problem(task)])
    try:
        return _ADAPTER.validate_python(values, strict=False)
    except ValidationError as error:
        problems = field_problems(error, values, TASKS[task])
        raise InvalidSpec(problems) from error


def spec_schema(task: str) -> dict[str, Any]:
    """Return the JSON schema of a task's spec."""
    return TASKS[task].model_json_schema()


def check_built(spec: JobSpec) -> None:
    """Raise InvalidSpec for every option that the spec may say and this version can't yet do."""
    problems = [
        FieldProblem(pointer, f"{what} is not available in this version", "Leave it out.")
        for pointer, what, is_used in _unbuilt(spec)
        if is_used
    ]
    if problems:
        raise InvalidSpec(problems)


def _unbuilt(spec: JobSpec) -> Iterator[tuple[str, str, bool]]:
    is_shared_out = spec.resources.parallel.strategy != "ddp"
    yield (
        "/resources/parallel/strategy",
        "an adapter on a model that is shared out",
        is_shared_out and spec.adapter is not None,
    )
    yield (
        "/resources/parallel/strategy",
        "a reference, which is the whole model on each device, beside one that is shared out",
        is_shared_out and spec.has_reference and spec.adapter is None,
    )
    for split, source in spec.data.references().items():
        is_hub = source.startswith("hub:")
        yield f"/data/{split}", "reading a data set from the Hub", is_hub


def unused(spec: JobSpec) -> Iterator[FieldProblem]:
    """Yield each setting that is given and changes nothing; the run goes on without it."""
    yield from _unused_of_training(spec)
    yield from _unused_of_evaluation(spec)
    yield from spec.unused()


def _unused_of_training(spec: JobSpec) -> Iterator[FieldProblem]:
    training = spec.training
    for names, optimizers in (
        (("adam_beta1", "adam_beta2"), _HAVE_BETAS),
        (("adam_epsilon",), _HAVE_EPSILON),
    ):
        for name in names:
            if is_given(training, name) and training.optimizer not in optimizers:
                why = f"the optimizer '{training.optimizer}' does not have it"
                yield unused_field(f"/training/{name}", why)
    yield from _unused_of_schedule(training)
    if training.label_smoothing and spec.why_not_smoothed:
        yield unused_field("/training/label_smoothing", spec.why_not_smoothed)
    if training.max_steps is not None and is_given(training, "epochs"):
        yield unused_field("/training/epochs", "training.max_steps says how long to train")
    if spec.checkpoints.strategy == "no" and is_given(spec.checkpoints, "keep"):
        yield unused_field("/checkpoints/keep", "checkpoints.strategy is 'no'")
    if spec.resources.on_oom == "shrink" and 1 in (training.batch_size, training.micro_batch_size):
        yield unused_field("/resources/on_oom", "a micro-batch of one row has no half")


def _unused_of_schedule(training: TrainingSpec) -> Iterator[FieldProblem]:
    if training.optimizer.startswith("schedule_free") and is_given(training, "scheduler"):
        why = f"the optimizer '{training.optimizer}' has a schedule of its own"
        yield unused_field("/training/scheduler", why)
    if is_given(training, "warmup_ratio"):
        for name, holder in (
            ("reduce_lr_on_plateau", training.scheduler),
            ("schedule_free_radam", training.optimizer),
        ):
            if name == holder:
                yield unused_field("/training/warmup_ratio", f"'{name}' has no warm-up")


def _unused_of_evaluation(spec: JobSpec) -> Iterator[FieldProblem]:
    data, evaluation = spec.data, spec.evaluation
    if data.eval is None:
        why = "data.eval is null, so there are no rows to evaluate on"
        if evaluation.strategy == "steps":
            yield unused_field("/evaluation/steps", why)
        if data.max_eval_rows is not None:
            yield unused_field("/data/max_eval_rows", why)
        if evaluation.baseline is True:
            yield unused_field("/evaluation/baseline", why)
        if data.test is None and is_given(evaluation, "batch_size"):
            yield unused_field("/evaluation/batch_size", why)
    if not spec.is_measured_in_training and is_given(evaluation, "metric"):
        why = "nothing is measured while training, so the last model is handed out"
        yield unused_field("/evaluation/metric", why, "Set data.eval and evaluation.strategy.")
    if spec.is_measured_in_training and spec.checkpoints.strategy == "no":
        why = "without checkpoints the last model is handed out, not the best one"
        hint = "Set checkpoints.strategy to 'evaluation'."
        yield unused_field("/evaluation/metric", why, hint)


def field_problems(
    error: ValidationError, values: Mapping[str, Any], model: type[BaseModel]
) -> list[FieldProblem]:
    """Return one problem a field: pydantic reports each branch of a union on its own."""
    reasons: dict[str, list[str]] = {}
    hints: dict[str, str] = {}
    inputs: dict[str, str] = {}
    for item in error.errors(include_url=False):
        path = _path_in(values, item["loc"], is_missing=item["type"] == "missing")
        pointer = pointer_of(path)
        message, hint = _sentence(item, path, values, model)
        if message not in reasons.setdefault(pointer, []):
            reasons[pointer].append(message)
        hints[pointer] = hints.get(pointer) or hint
        inputs[pointer] = _shown(item)
    return [
        FieldProblem(pointer, " or ".join(messages) + inputs[pointer], hints[pointer])
        for pointer, messages in reasons.items()
    ]


def pointer_of(path: Sequence[str | int]) -> str:
    """Return the JSON pointer (RFC 6901) of a path of keys and indexes."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in path)


def _path_in(
    values: object, loc: tuple[str | int, ...], *, is_missing: bool
) -> tuple[str | int, ...]:
    """Return `loc` without the names of union branches, which are no part of the input."""
    path: list[str | int] = []
    here = values
    for position, part in enumerate(loc):
        if isinstance(here, Mapping) and part in here:
            here = here[part]
        elif isinstance(here, Sequence) and isinstance(part, int) and not isinstance(here, str):
            here = here[part] if part < len(here) else None
        elif not (is_missing and position == len(loc) - 1):
            continue
        path.append(part)
    return tuple(path)


def _sentence(
    item: typing.Any, path: tuple[str | int, ...], values: Mapping[str, Any], model: type[BaseModel]
) -> tuple[str, str]:
    match item["type"]:
        case "extra_forbidden":
            return _unknown_field(path, values, model)
        case "missing":
            return "is required", f"Set {'.'.join(map(str, path))}."
        case "value_error":
            return str(item["ctx"]["error"]), ""
        case _:
            message = item["msg"].removeprefix("Input ").removeprefix("String ")
            return message.partition(", unable to parse")[0], ""


def _shown(item: typing.Any) -> str:
    """Return what was given, where the message does not say it yet."""
    given = item["input"]
    if item["type"] in ("extra_forbidden", "missing", "value_error"):
        return ""
    return f"; got {given!r}"[:120] if isinstance(given, str | int | float | None) else ""


def _unknown_field(
    path: tuple[str | int, ...], values: Mapping[str, Any], model: type[BaseModel]
) -> tuple[str, str]:
    name = str(path[-1])
    known = _fields_at(model, path[:-1])
    task = values.get("task")
    owners = [
        other
        for other, spec in TASKS.items()
        if other != task and name in _fields_at(spec, path[:-1]) and len(path) > 0
    ]
    if owners:
        return f"'{name}' is a field of {', '.join(owners)}, not of {task}", "Leave it out."
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean '{close[0]}'?" if close else f"Fields here: {', '.join(sorted(known))}."
    return f"there is no field '{name}'", hint


def _fields_at(model: type[BaseModel], path: Sequence[str | int]) -> set[str]:
    """Return the names of the fields of the part of a model to which a path leads."""
    here: type[BaseModel] | None = model
    for part in path:
        if here is None or part not in here.model_fields:
            return set()
        here = _model_in(here.model_fields[str(part)].annotation)
    return set(here.model_fields) if here else set()


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in typing.get_args(annotation):
        if found := _model_in(argument):
            return found
    return None


def _task_problem(task: object) -> FieldProblem:
    known = ", ".join(TASKS)
    if task is None:
        return FieldProblem("/task", "is required", f"Set it to one of: {known}.")
    close = difflib.get_close_matches(str(task), TASKS, n=1)
    hint = f"Did you mean '{close[0]}'?" if close else f"Known tasks: {known}."
    return FieldProblem("/task", f"there is no task {task!r}"[:200], hint)
