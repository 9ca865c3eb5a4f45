"""Which values are tried next. Everything follows from the plan and the trials so far.

So a service that is started again goes on as if it had not been stopped, and nothing of Optuna is
stored: its study is built anew for each question.
"""

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, assert_never

from jobs.records import Trial
from jobs.states import TrialState
from jobs.sweeps.plan import Choice, Dimension, FloatRange, IntRange, Plan

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

_MAX_SEED = 2**31


def next_params(plan: Plan, trials: Sequence[Trial]) -> dict[str, Any]:
    """Return the values of the next trial, by pointer."""
    match plan.sampler:
        case "grid":
            return _grid(plan, len(trials))
        case "random":
            return _random(plan, len(trials))
        case "tpe":
            return _tpe(plan, trials)
        case _:
            assert_never(plan.sampler)


def grid_size(plan: Plan) -> int:
    """Return how many points the grid of a plan has, whose real ranges all have a step."""
    return math.prod(_num_points(dimension) for dimension in plan.space.values())


def study_of(plan: Plan, trials: Sequence[Trial], *, seed: int = 0) -> "Study":
    """Return Optuna's study with the trials so far."""
    import optuna  # 0.3 s, and only where it is asked

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=seed),
        direction="maximize" if plan.is_maximizing else "minimize",
    )
    study.add_trials([frozen(plan, trial) for trial in trials])
    return study


def frozen(plan: Plan, trial: Trial) -> "FrozenTrial":
    """Return a trial as Optuna has it."""
    from optuna.trial import TrialState as Theirs
    from optuna.trial import create_trial

    states = {
        TrialState.RUNNING: Theirs.RUNNING,
        TrialState.SUCCEEDED: Theirs.COMPLETE,
        TrialState.PRUNED: Theirs.PRUNED,
        TrialState.FAILED: Theirs.FAIL,
        TrialState.CANCELLED: Theirs.FAIL,
    }
    return create_trial(
        state=states[trial.state],
        value=trial.value,
        params={pointer: _known(plan, pointer, value) for pointer, value in trial.params.items()},
        distributions=_distributions(plan),
        intermediate_values={int(step): value for step, value in trial.measured.items()},
    )


def _grid(plan: Plan, number: int) -> dict[str, Any]:
    """Return a point of the grid; the last field changes fastest."""
    params = {}
    for pointer, dimension in reversed(plan.space.items()):
        number, index = divmod(number, _num_points(dimension))
        params[pointer] = _point(dimension, index)
    return {pointer: params[pointer] for pointer in plan.space}


def _random(plan: Plan, number: int) -> dict[str, Any]:
    source = random.Random(f"{plan.seed}/{number}")  # noqa: S311 - it guards nothing
    return {pointer: _drawn(dimension, source) for pointer, dimension in plan.space.items()}


def _tpe(plan: Plan, trials: Sequence[Trial]) -> dict[str, Any]:
    # A sampler that is seeded anew for each trial would draw the same again without the number.
    seed = random.Random(f"{plan.seed}/{len(trials)}").randrange(_MAX_SEED)  # noqa: S311
    asked = study_of(plan, trials, seed=seed).ask(_distributions(plan)).params
    params = {}
    for pointer, dimension in plan.space.items():
        value = asked[pointer]
        params[pointer] = dimension.values[value] if isinstance(dimension, Choice) else value
    return params


def _num_points(dimension: Dimension) -> int:
    match dimension:
        case Choice():
            return len(dimension.values)
        case IntRange():
            return (dimension.high - dimension.low) // dimension.step + 1
        case FloatRange():
            assert dimension.step is not None, "a grid over a range without a step"
            # As many as there are but for what is lost in decimals, such as 0.3 / 0.1.
            return math.floor((dimension.high - dimension.low) / dimension.step + 1e-9) + 1


def _point(dimension: Dimension, index: int) -> Any:
    match dimension:
        case Choice():
            return dimension.values[index]
        case IntRange():
            return dimension.low + index * dimension.step
        case FloatRange():
            assert dimension.step is not None, "a grid over a range without a step"
            return float(f"{dimension.low + index * dimension.step:.12g}")


def _drawn(dimension: Dimension, source: random.Random) -> Any:
    match dimension:
        case IntRange() if dimension.log:
            value = math.exp(source.uniform(math.log(dimension.low), math.log(dimension.high + 1)))
            return min(int(value), dimension.high)
        case FloatRange() if dimension.step is None:
            if dimension.log:
                low, high = math.log(dimension.low), math.log(dimension.high)
                value = math.exp(source.uniform(low, high))
            else:
                value = source.uniform(dimension.low, dimension.high)
            return min(max(value, dimension.low), dimension.high)
        case _:
            return _point(dimension, source.randrange(_num_points(dimension)))


def _distributions(plan: Plan) -> "dict[str, BaseDistribution]":
    from optuna import distributions as theirs

    found: dict[str, BaseDistribution] = {}
    for pointer, dimension in plan.space.items():
        match dimension:
            case Choice():  # by its index, since Optuna's choices are no lists or objects
                found[pointer] = theirs.CategoricalDistribution(range(len(dimension.values)))
            case IntRange():
                high = _point(dimension, _num_points(dimension) - 1)
                found[pointer] = theirs.IntDistribution(
                    dimension.low, high, log=dimension.log, step=dimension.step
                )
            case FloatRange():
                high = dimension.high
                if dimension.step is not None:
                    high = _point(dimension, _num_points(dimension) - 1)
                found[pointer] = theirs.FloatDistribution(
                    dimension.low, high, log=dimension.log, step=dimension.step
                )
    return found


def _known(plan: Plan, pointer: str, value: Any) -> Any:
    dimension = plan.space[pointer]
    return dimension.values.index(value) if isinstance(dimension, Choice) else value
