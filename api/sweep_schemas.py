"""What the routes of sweeps return."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from api.schemas import Schema, Timestamp
from jobs.records import Sweep as StoredSweep
from jobs.records import Trial as StoredTrial
from jobs.states import SweepState, TrialState
from jobs.sweeps.engine import best_of
from jobs.sweeps.plan import Plan


class Trial(Schema):
    """One job of a sweep."""

    number: int
    """From 0."""
    params: dict[str, Any]
    """What it tries: JSON pointers into the spec with their values."""
    job_id: str | None
    """Null where the job could not be submitted, or was deleted."""
    state: TrialState
    value: float | None
    """Of the objective, once it has succeeded."""
    measured: dict[str, float]
    """Optimizer step to the value of the objective on the evaluation rows."""
    reason: str | None
    """Why it failed, was pruned or is about to be."""
    created_at: Timestamp
    finished_at: Timestamp | None


class BestTrial(Schema):
    """The best trial so far, and its model."""

    number: int
    params: dict[str, Any]
    value: float
    job_id: str | None
    model: str | None
    """How specs refer to its model, `job:ID`; null where the job was deleted."""


class Sweep(Schema):
    """A search for the best values of some fields of a job's spec."""

    id: str
    name: str | None
    state: SweepState
    reason: str | None
    """Why it ended as it did."""
    plan: dict[str, Any]
    """As given, with what was left open decided."""
    num_trials: dict[str, int]
    """How many trials are in each state."""
    best: BestTrial | None
    created_at: Timestamp
    finished_at: Timestamp | None
    updated_at: Timestamp

    @classmethod
    def of(cls, sweep: StoredSweep, *, trials: Sequence[StoredTrial]) -> "Sweep":
        """Return a stored sweep with what its trials say."""
        return cls(**_visible(sweep, trials))


class SweepDetail(Sweep):
    """A sweep with its trials."""

    trials: list[Trial]

    @classmethod
    def whole(cls, sweep: StoredSweep, *, trials: Sequence[StoredTrial]) -> "SweepDetail":
        """Return a stored sweep with all that belongs to it."""
        shown = [Trial.model_validate(trial) for trial in trials]
        return cls(**_visible(sweep, trials), trials=shown)


class SweepPage(Schema):
    """Sweeps, newest first."""

    data: list[Sweep]
    has_more: bool


class TrialPage(Schema):
    """Trials, by number."""

    data: list[Trial]
    has_more: bool


def _visible(sweep: StoredSweep, trials: Sequence[StoredTrial]) -> dict[str, Any]:
    same = Sweep.model_fields.keys() - {"num_trials", "best"}
    counts = Counter(trial.state for trial in trials)
    return {name: getattr(sweep, name) for name in same} | {
        "num_trials": {state.value: counts[state] for state in TrialState},
        "best": _best(sweep, trials),
    }


def _best(sweep: StoredSweep, trials: Sequence[StoredTrial]) -> BestTrial | None:
    best = best_of(Plan.model_validate(sweep.plan), trials)
    if best is None or best.value is None:
        return None
    return BestTrial(
        number=best.number,
        params=best.params,
        value=best.value,
        job_id=best.job_id,
        model=best.job_id and f"job:{best.job_id}",
    )
