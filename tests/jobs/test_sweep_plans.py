"""What a sweep may say, and which values it tries: no database, no service."""

import dataclasses
import json
import math
from datetime import UTC, datetime
from statistics import median
from typing import Any

import pytest

from jobs.records import Trial
from jobs.states import TrialState
from jobs.sweeps.checking import parse_plan
from jobs.sweeps.overrides import canonical, overridden
from jobs.sweeps.plan import Plan
from jobs.sweeps.pruning import hopeless
from jobs.sweeps.sampling import next_params
from trainer_core.errors import InvalidSpec
from trainer_core.spec import parse_spec

RATE = "/training/learning_rate"
SPEC = {
    "task": "text-classification",
    "model": "hub:org/encoder",
    "data": {"train": "dataset:ds_0123456789ab", "eval": 0.1},
}
SPACE = {
    RATE: {"type": "float", "low": 1e-5, "high": 1e-2, "log": True},
    "training.batch_size": {"type": "choice", "values": [8, 16, 32]},
    "/training/epochs": {"type": "int", "low": 1, "high": 4},
}


def values_of(**changes: Any) -> dict[str, Any]:
    return {"spec": SPEC, "space": SPACE, **changes}


def plan_of(**changes: Any) -> Plan:
    return parse_plan(values_of(**changes))


def trial_of(number: int, params: dict[str, Any], **changes: Any) -> Trial:
    values = {
        "sweep_id": "sweep_1",
        "number": number,
        "params": params,
        "job_id": f"job_{number}",
        "state": TrialState.RUNNING,
        "value": None,
        "measured": {},
        "reason": None,
        "created_at": datetime.now(UTC),
        "finished_at": None,
    }
    return Trial(**(values | changes))


def searched(plan: Plan, value_of: Any, *, num: int) -> list[Trial]:
    """Return trials, each asked for after those before have succeeded."""
    trials: list[Trial] = []
    for number in range(num):
        params = next_params(plan, trials)
        state = TrialState.SUCCEEDED
        trials.append(trial_of(number, params, state=state, value=value_of(params)))
    return trials


def problems_of(**changes: Any) -> dict[str, str]:
    with pytest.raises(InvalidSpec) as caught:
        plan_of(**changes)
    return {problem.pointer: problem.message for problem in caught.value.problems}


def test_what_was_left_open_is_decided() -> None:
    plan = plan_of()

    assert (plan.sampler, plan.num_trials, plan.max_parallel) == ("tpe", 20, 2)
    assert (plan.objective.metric, plan.is_maximizing) == ("accuracy", True)
    assert list(plan.space) == [RATE, "/training/batch_size", "/training/epochs"]
    assert not plan_of(objective={"metric": "loss"}).is_maximizing


def test_stored_plan_parses_to_the_same() -> None:
    plan = plan_of(pruner={"type": "median"})

    assert Plan.model_validate(json.loads(json.dumps(plan.model_dump(mode="json")))) == plan


def test_everything_wrong_is_told_at_once_with_its_pointer() -> None:
    problems = problems_of(
        spec={**SPEC, "colour": "red"},
        space={RATE: {"type": "float", "low": 2.0, "high": 1.0}, "/b": {"type": "range"}},
        max_parallel=0,
        sampler="bayes",
    )

    assert {"/spec/colour", "/max_parallel", "/sampler"} <= set(problems)
    assert "low is above high: 2 > 1" in problems["/space/~1training~1learning_rate"]
    assert any(pointer.startswith("/space/~1b") for pointer in problems)


@pytest.mark.parametrize(
    ("space", "pointer", "words"),
    [
        ({"/training/rate": {"type": "int", "low": 1, "high": 2}}, "~1training~1rate", "no field"),
        (
            {RATE: {"type": "float", "low": -1, "high": 0.1}},
            "~1training~1learning_rate/low",
            "greater",
        ),
        (
            {"training.batch_size": {"type": "choice", "values": [8, 0, "many"]}},
            "training.batch_size/values/1",
            "greater",
        ),
        (
            {"training.batch_size": {"type": "choice", "values": [8, 0, "many"]}},
            "training.batch_size/values/2",
            "integer",
        ),
        ({"/task": {"type": "choice", "values": ["dpo"]}}, "~1task", "in common"),
        ({"/model/x": {"type": "int", "low": 1, "high": 2}}, "~1model~1x", "no object"),
        (
            {RATE: SPACE[RATE], "training.learning_rate": SPACE[RATE]},
            "training.learning_rate",
            "same field",
        ),
        ({RATE: {"type": "float", "low": 0, "high": 1, "log": True}}, "~1training", "above 0"),
        ({RATE: {"type": "choice", "values": []}}, "~1training~1learning_rate/values", "at least"),
    ],
)
def test_bad_space_is_told_where_it_is(space: dict[str, Any], pointer: str, words: str) -> None:
    problems = problems_of(space=space)

    found = [message for at, message in problems.items() if at.startswith(f"/space/{pointer}")]
    assert found, problems
    assert any(words in message for message in found), problems


def test_objective_and_rows_to_measure_are_checked() -> None:
    spec = {**SPEC, "data": {"train": "dataset:ds_0123456789ab", "eval": None}}

    assert "has no metric 'bleu'" in problems_of(objective={"metric": "bleu"})["/objective/metric"]
    assert "/spec/data/eval" in problems_of(spec=spec)


def test_grid_is_every_combination_once_in_order() -> None:
    space = {
        "/training/batch_size": SPACE["training.batch_size"],
        RATE: {"type": "float", "low": 0.1, "high": 0.3, "step": 0.1},
        "/training/epochs": {"type": "int", "low": 1, "high": 5, "step": 2},
    }
    plan = plan_of(space=space, sampler="grid")

    trials = searched(plan, lambda _: 0.0, num=plan.num_trials)

    assert plan.num_trials == 3 * 3 * 3
    tried = [tuple(trial.params.values()) for trial in trials]
    assert tried[:4] == [(8, 0.1, 1), (8, 0.1, 3), (8, 0.1, 5), (8, 0.2, 1)]
    assert tried[-1] == (32, 0.3, 5)
    assert len(set(tried)) == 27


def test_grid_has_to_be_finite_and_whole() -> None:
    assert "/space/~1training~1learning_rate/step" in problems_of(sampler="grid")
    space = {"/training/epochs": {"type": "int", "low": 1, "high": 5000}}
    assert "5000 points" in problems_of(space=space, sampler="grid")["/space"]
    space = {"/training/epochs": {"type": "int", "low": 1, "high": 5}}
    assert "5 points" in problems_of(space=space, sampler="grid", max_trials=3)["/max_trials"]


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_same_seed_and_results_give_the_same_values(sampler: str) -> None:
    def value(params: dict[str, Any]) -> float:
        return -abs(params[RATE] - 1e-3)

    first, second = (searched(plan_of(sampler=sampler), value, num=14) for _ in range(2))
    other = searched(plan_of(sampler=sampler, seed=1), value, num=14)

    assert [trial.params for trial in first] == [trial.params for trial in second]
    assert [trial.params for trial in first] != [trial.params for trial in other]
    assert len({json.dumps(trial.params) for trial in first}) == 14


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_values_are_within_their_ranges_and_make_specs(sampler: str) -> None:
    plan = plan_of(sampler=sampler)
    for trial in searched(plan, lambda params: params[RATE], num=16):
        spec = parse_spec(overridden(plan.spec, trial.params))
        assert 1e-5 <= spec.training.learning_rate <= 1e-2
        assert spec.training.batch_size in (8, 16, 32)
        assert spec.training.epochs in (1, 2, 3, 4)


def test_tpe_learns_where_the_good_values_are_and_random_does_not() -> None:
    space = {RATE: {"type": "float", "low": 1e-6, "high": 1.0, "log": True}}

    def closeness(params: dict[str, Any]) -> float:
        return -abs(math.log10(params[RATE]) + 3)  # best at 1e-3, in the middle

    def usual(sampler: str) -> float:
        plans = [plan_of(space=space, sampler=sampler, seed=seed) for seed in range(3)]
        found = [searched(plan, closeness, num=30)[10:] for plan in plans]
        return median(trial.value or 0.0 for trials in found for trial in trials)

    assert usual("tpe") > usual("random") + 0.5  # closer by a factor of 3


def test_tpe_takes_choices_that_are_lists_and_trials_of_every_state() -> None:
    space = {"/adapter/target_modules": {"type": "choice", "values": [["query"], ["value"]]}}
    plan = plan_of(spec={**SPEC, "adapter": {"type": "lora"}}, space=space)
    trials = [
        trial_of(number, {"/adapter/target_modules": ["query"]}, state=state, **more)
        for number, (state, more) in enumerate(
            [
                (TrialState.SUCCEEDED, {"value": 0.5, "measured": {"10": 0.4}}),
                (TrialState.FAILED, {}),
                (TrialState.PRUNED, {"measured": {"10": 0.1}}),
                (TrialState.CANCELLED, {}),
                (TrialState.RUNNING, {"measured": {"10": 0.3}}),
            ]
        )
    ]

    assert next_params(plan, trials)["/adapter/target_modules"] in (["query"], ["value"])


def test_clearly_worse_trial_is_hopeless_and_no_other() -> None:
    plan = plan_of(pruner={"type": "median", "startup_trials": 3, "warmup_steps": 10})
    done = [
        trial_of(n, {}, state=TrialState.SUCCEEDED, value=0.9, measured={"10": 0.5, "20": 0.8})
        for n in range(3)
    ]
    done = [dataclasses.replace(t, params=next_params(plan, [])) for t in done]
    params = done[0].params
    bad = trial_of(3, params, measured={"10": 0.1, "20": 0.1})
    good = trial_of(4, params, measured={"10": 0.6})
    early = trial_of(5, params, measured={"5": 0.0})
    unmeasured = trial_of(6, params)

    assert hopeless(plan, [*done, bad, good, early, unmeasured]) == [bad]
    assert hopeless(plan, [*done[:2], bad]) == []  # too few to judge by
    assert hopeless(plan_of(), [*done, bad]) == []


def test_override_reaches_what_is_not_there_yet() -> None:
    assert canonical("training.learning_rate") == RATE
    assert overridden({"a": {"b": 1}}, {"/a/c/d": 2, "/a/b": 3}) == {"a": {"b": 3, "c": {"d": 2}}}
    assert overridden({}, {"/a~1b/c~0d": 1}) == {"a/b": {"c~d": 1}}
