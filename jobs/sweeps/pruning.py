"""Which trials are given up: those that are clearly worse than others at the same step."""

from collections.abc import Sequence

from jobs.records import Trial
from jobs.states import TrialState
from jobs.sweeps.plan import Plan
from jobs.sweeps.sampling import frozen, study_of


def hopeless(plan: Plan, trials: Sequence[Trial]) -> list[Trial]:
    """Return the running trials that Optuna's median pruner would stop."""
    if plan.pruner is None:
        return []
    measured = [t for t in trials if t.state is TrialState.RUNNING and t.measured]
    succeeded = [t for t in trials if t.state is TrialState.SUCCEEDED]
    if not measured or len(succeeded) < plan.pruner.startup_trials:
        return []
    from optuna.pruners import MedianPruner

    pruner = MedianPruner(plan.pruner.startup_trials, plan.pruner.warmup_steps)
    study = study_of(plan, succeeded)
    return [trial for trial in measured if pruner.prune(study, frozen(plan, trial))]
