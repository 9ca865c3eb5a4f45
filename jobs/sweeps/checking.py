"""From JSON values to a plan, with everything that is wrong at once, each at its JSON pointer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from jobs.sweeps.overrides import canonical, overridden, path_of
from jobs.sweeps.plan import (
    DEFAULT_TRIALS,
    MAX_TRIALS,
    Choice,
    Dimension,
    FloatRange,
    IntRange,
    Objective,
    Plan,
)
from jobs.sweeps.sampling import grid_size
from trainer_core.errors import FieldProblem, InvalidSpec
from trainer_core.spec import JobSpec, parse_spec
from trainer_core.spec.parsing import field_problems, pointer_of

_BASE = "/spec"
_FIXED = frozenset({"version", "task", "name", "labels"})  # trials have them in common


def parse_plan(values: object) -> Plan:
    """Return the plan that JSON-ready values say, whole, or raise InvalidSpec with every problem.

    What was left open is decided: the metric and its direction, the number of trials, and the names
    of the fields as pointers.
    """
    if not isinstance(values, Mapping):
        raise InvalidSpec([FieldProblem("", "a sweep is a JSON object")])
    try:
        plan = Plan.model_validate(values)
    except ValidationError as error:
        raise InvalidSpec([*field_problems(error, values, Plan), *_of_spec(values)]) from error
    try:
        base = parse_spec(plan.spec)
    except InvalidSpec as error:
        raise InvalidSpec([*_below(_BASE, error), *_of_grid(plan)]) from error
    problems = [
        *_of_push(base),
        *_of_space(plan, base),
        *_of_grid(plan),
        *_of_objective(plan, base),
    ]
    if problems:
        raise InvalidSpec(problems)
    return _decided(plan, base)


@dataclass(frozen=True, slots=True)
class Variant:
    """A spec that a trial might have, with what is read for it."""

    pointer: str  # to the part of the plan that it comes from
    spec: JobSpec
    has_other_rows: bool  # than the base spec

    def placed(self, problem: FieldProblem) -> FieldProblem:
        """Return a problem of the spec at the place of the plan that causes it."""
        is_base = self.pointer == _BASE
        pointer = self.pointer + problem.pointer if is_base else self.pointer
        return FieldProblem(pointer, problem.message, problem.hint)


def variants(plan: Plan) -> list[Variant]:
    """Return the base spec, and one for each choice of a base model or of rows."""
    found = [Variant(_BASE, parse_spec(plan.spec), has_other_rows=True)]
    for pointer, dimension in plan.space.items():
        part = path_of(pointer)[0]
        if part in ("model", "data"):
            found.extend(
                Variant(
                    pointer_of(["space", pointer]) + place,
                    parse_spec(overridden(plan.spec, {pointer: value})),
                    has_other_rows=part == "data",
                )
                for place, value in _probes(dimension).items()
            )
    return found


def _decided(plan: Plan, base: JobSpec) -> Plan:
    metrics = base.metrics()
    metric = plan.objective.metric
    if metric == "auto":
        metric = next(iter(metrics)) if base.evaluation.metric == "auto" else base.evaluation.metric
    direction = plan.objective.direction
    if direction == "auto":
        direction = "maximize" if metrics[metric] == "higher" else "minimize"
    size = grid_size(plan) if plan.sampler == "grid" else DEFAULT_TRIALS
    return plan.model_copy(
        update={
            "space": {canonical(name): dimension for name, dimension in plan.space.items()},
            "max_trials": plan.max_trials or size,
            "objective": Objective(metric=metric, direction=direction),
        }
    )


def _of_spec(values: Mapping[str, Any]) -> Iterator[FieldProblem]:
    """Yield what is wrong with the spec of a plan that is wrong elsewhere."""
    if isinstance(values.get("spec"), Mapping):
        try:
            parse_spec(values["spec"])
        except InvalidSpec as error:
            yield from _below(_BASE, error)


def _below(pointer: str, error: InvalidSpec) -> Iterator[FieldProblem]:
    for problem in error.problems:
        yield FieldProblem(pointer + problem.pointer, problem.message, problem.hint)


def _of_push(base: JobSpec) -> Iterator[FieldProblem]:
    """Yield that trials would push over each other, where they would push."""
    if base.output.push is not None:
        yield FieldProblem(
            f"{_BASE}/output/push",
            "every trial would push to the same repository",
            "Leave it out, and push the best one's model: POST /jobs/{id}/push.",
        )


def _of_space(plan: Plan, base: JobSpec) -> Iterator[FieldProblem]:
    seen: dict[str, str] = {}
    for name, dimension in plan.space.items():
        here = pointer_of(["space", name])
        first = seen.setdefault(canonical(name), name)
        if first != name:
            yield FieldProblem(here, f"is the same field as '{first}'", "Leave one of them out.")
        elif path_of(name)[0] in _FIXED:
            what = "a field that all trials have in common"
            yield FieldProblem(
                here, f"'{name}' is {what}", f"Set it in the spec of task {base.task}."
            )
        else:
            yield from _of_dimension(plan, name, dimension, here=here)


def _of_dimension(
    plan: Plan, name: str, dimension: Dimension, *, here: str
) -> Iterator[FieldProblem]:
    """Yield why the ends of a range, or some of the choices, can't be a value of the field."""
    told = set()
    for place, value in _probes(dimension).items():
        try:
            parse_spec(overridden(plan.spec, {canonical(name): value}))
        except InvalidSpec as error:
            problem = error.problems[0]
            where = here if _is_unknown(problem) else here + place
            if where not in told:
                told.add(where)
                yield FieldProblem(where, problem.message, problem.hint)


def _is_unknown(problem: FieldProblem) -> bool:
    return "no field" in problem.message  # it is the name that is wrong, whatever the value


def _probes(dimension: Dimension) -> dict[str, Any]:
    match dimension:
        case FloatRange() | IntRange():
            return {"/low": dimension.low, "/high": dimension.high}
        case Choice():
            return {f"/values/{index}": value for index, value in enumerate(dimension.values)}


def _of_grid(plan: Plan) -> Iterator[FieldProblem]:
    if plan.sampler != "grid":
        return
    is_endless = False
    for name, dimension in plan.space.items():
        if isinstance(dimension, FloatRange) and dimension.step is None:
            is_endless = True
            hint = "Set step, or list the values as a choice."
            yield FieldProblem(pointer_of(["space", name, "step"]), "a grid needs a step", hint)
    size = MAX_TRIALS if is_endless else grid_size(plan)
    hint = "Use fewer values, or the sampler 'random'."
    if size > MAX_TRIALS:
        yield FieldProblem("/space", f"the grid has {size} points; at most {MAX_TRIALS}", hint)
    elif plan.max_trials is not None and not is_endless and plan.max_trials != size:
        yield FieldProblem("/max_trials", f"the grid has {size} points", f"Leave it out. {hint}")


def _of_objective(plan: Plan, base: JobSpec) -> Iterator[FieldProblem]:
    metric = plan.objective.metric
    if metric != "auto" and metric not in base.metrics():
        known = ", ".join(base.metrics())
        yield FieldProblem(
            "/objective/metric", f"{base.task} has no metric '{metric}'", f"It has: {known}."
        )
    if not base.data.eval:
        hint = "Set it to a fraction, such as 0.1, or to a data set."
        yield FieldProblem("/spec/data/eval", "trials are compared on evaluation rows", hint)
