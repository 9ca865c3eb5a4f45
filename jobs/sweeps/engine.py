"""One look at every sweep: what has ended, what is hopeless, what comes next.

Every API process looks. The lock of a sweep's row lets one at it at a time, and all that it knows
is in the database: it can die between any two looks.
"""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.backends import Backends
from jobs.records import Job, Sweep, Trial
from jobs.states import FINAL, State, SweepState, TrialState
from jobs.store import audit, events, jobs, sweeps
from jobs.sweeps.overrides import overridden
from jobs.sweeps.plan import Plan
from jobs.sweeps.pruning import hopeless
from jobs.sweeps.sampling import next_params
from jobs.transaction import Transaction
from trainer_core.errors import IllegalTransition, JobNotFound, LuthierError
from trainer_core.spec import JobSpec, parse_spec

_SPLIT = "eval"
_ENDS = {State.FAILED: TrialState.FAILED, State.CANCELLED: TrialState.CANCELLED}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Searcher:
    """A sweep, as the audit log calls who makes and cancels its jobs."""

    project: str
    name: str  # id of the sweep
    key_id: str | None = None


def look(backends: Backends) -> None:
    """Look once at every sweep that is not over; one that can't be moved stops no other."""
    with backends.database.transaction() as tx:
        unfinished = sweeps.unfinished(tx)
    for sweep_id in unfinished:
        try:
            with backends.database.transaction() as tx:
                sweep = sweeps.take(tx, sweep_id)
                if sweep is not None:
                    advance(tx, sweep, max_attempts=backends.settings.max_attempts)
        except Exception:  # noqa: BLE001 - the other sweeps are not to blame
            _log.exception("could not move %s on", sweep_id, extra={"action": "sweep_stuck"})


def advance(tx: Transaction, sweep: Sweep, *, max_attempts: int) -> None:
    """Move on a sweep that is locked."""
    plan = Plan.model_validate(sweep.plan)
    trials = [_settled(tx, sweep, plan, trial) for trial in sweeps.trials_of(tx, sweep.id)]
    if sweep.state is not SweepState.RUNNING:
        return
    for trial in hopeless(plan, [t for t in trials if t.reason is None or _is_over(t)]):
        _prune(tx, sweep, plan, trial)
    _submit(tx, sweep, plan, trials, max_attempts=max_attempts)
    if len(trials) == plan.num_trials and all(map(_is_over, trials)):
        _end(tx, sweep, trials)


def cancel(tx: Transaction, sweep_id: str, *, project: str) -> Sweep:
    """End a sweep and cancel its jobs; one that has ended is left as it is.

    Raises:
        SweepNotFound: no such sweep.
    """
    sweep = sweeps.get(tx, sweep_id, project=project, is_locked=True)
    if sweep.state is not SweepState.RUNNING:
        return sweep
    for trial in sweeps.trials_of(tx, sweep.id):
        if not _is_over(trial):
            _cancel_job(tx, sweep, trial, reason="its sweep was cancelled")
    return sweeps.end(tx, sweep.id, SweepState.CANCELLED, reason="cancelled by request")


def best_of(plan: Plan, trials: Sequence[Trial]) -> Trial | None:
    """Return the best trial that has succeeded, the earlier of two that are as good."""
    succeeded = [trial for trial in trials if trial.value is not None]
    sign = -1 if plan.is_maximizing else 1
    return min(succeeded, key=lambda trial: sign * (trial.value or 0.0), default=None)


def _settled(tx: Transaction, sweep: Sweep, plan: Plan, trial: Trial) -> Trial:
    """Return a trial with what its job says by now."""
    if _is_over(trial):
        return trial
    job = _job_of(tx, sweep, trial)
    if job is None:
        reason = {"state": TrialState.FAILED, "reason": "its job was deleted"}
        return sweeps.note(tx, trial, reason)
    values: dict[str, Any] = {}
    measured = _measured(tx, plan, job, trial)
    if measured != trial.measured:
        values["measured"] = measured
    if job.state in FINAL:
        values |= _ending(plan, job, trial)
    return sweeps.note(tx, trial, values) if values else trial


def _measured(tx: Transaction, plan: Plan, job: Job, trial: Trial) -> dict[str, float]:
    newest = (job.metrics.get(_SPLIT) or {}).get("step")
    if newest is None or str(newest) in trial.measured:
        return dict(trial.measured)  # nothing new: the events need not be read
    metric = plan.objective.metric
    found = {}
    for event in events.read_metrics(tx, job.id):
        value = event.data["metrics"].get(metric) if event.data["split"] == _SPLIT else None
        if value is not None:
            found[str(event.data["step"])] = float(value)
    return found


def _ending(plan: Plan, job: Job, trial: Trial) -> dict[str, Any]:
    if job.state is not State.SUCCEEDED:
        reason = job.error["message"] if job.error and job.state is State.FAILED else trial.reason
        state = _ENDS[job.state]
        is_pruned = state is TrialState.CANCELLED and trial.reason is not None
        return {"state": TrialState.PRUNED if is_pruned else state, "reason": reason}
    value = ((job.best or {}).get("metrics") or {}).get(plan.objective.metric)
    if value is None:
        reason = f"its job has no {plan.objective.metric} on the evaluation rows"
        return {"state": TrialState.FAILED, "reason": reason}
    return {"state": TrialState.SUCCEEDED, "value": float(value), "reason": None}


def _prune(tx: Transaction, sweep: Sweep, plan: Plan, trial: Trial) -> None:
    step = max(map(int, trial.measured))
    value = trial.measured[str(step)]
    reason = f"pruned at step {step}: {plan.objective.metric} {value:.6g} is worse than the median"
    _cancel_job(tx, sweep, trial, reason=reason)
    sweeps.note(tx, trial, {"reason": reason})  # `pruned` once the job has let go


def _cancel_job(tx: Transaction, sweep: Sweep, trial: Trial, *, reason: str) -> None:
    if trial.job_id is not None:
        # It may have ended this moment, or been deleted; the next look sees what became of it.
        with contextlib.suppress(IllegalTransition, JobNotFound):
            jobs.cancel(tx, trial.job_id, project=sweep.project, reason=reason)
            searcher = _Searcher(sweep.project, sweep.id)
            audit.note(tx, caller=searcher, action="job.cancel", target=trial.job_id, reason=reason)


def _submit(
    tx: Transaction, sweep: Sweep, plan: Plan, trials: list[Trial], *, max_attempts: int
) -> None:
    """Submit trials, and append them to `trials`, until enough run or there are no more."""
    while (
        len(trials) < plan.num_trials
        and sum(not _is_over(trial) for trial in trials) < plan.max_parallel
    ):
        params = next_params(plan, trials)
        number = len(trials)
        job: Job | None = None
        reason: str | None = None
        try:
            spec = _spec_of(sweep, plan, params, number=number)
            with tx.connection.begin_nested():
                job = jobs.create(
                    tx,
                    spec,
                    project=sweep.project,
                    max_attempts=max_attempts,
                    sweep_id=sweep.id,
                    caller=_Searcher(sweep.project, sweep.id),
                )
        except LuthierError as error:
            if error.retryable:
                return  # such as a quota: another look will do it
            reason = str(error)
        trials.append(
            sweeps.add_trial(
                tx, sweep.id, number, params=params, job_id=job.id if job else None, reason=reason
            )
        )


def _spec_of(sweep: Sweep, plan: Plan, params: dict[str, Any], *, number: int) -> JobSpec:
    values = overridden(plan.spec, params)
    name = f"{plan.name or values.get('name') or sweep.id} {number}"
    spec = parse_spec({**values, "name": name[-200:]})
    metric = plan.objective.metric
    if spec.evaluation.metric == "auto" and next(iter(spec.metrics())) != metric:
        # A job's best model is the one with the best value, so that the value is of its model.
        chosen = spec.evaluation.model_copy(update={"metric": metric})
        return spec.model_copy(update={"evaluation": chosen})
    return spec


def _end(tx: Transaction, sweep: Sweep, trials: Sequence[Trial]) -> None:
    num_good = sum(trial.state is TrialState.SUCCEEDED for trial in trials)
    state = SweepState.SUCCEEDED if num_good else SweepState.FAILED
    reason = f"{num_good} of {len(trials)} trials succeeded"
    sweeps.end(tx, sweep.id, state, reason=reason)


def _job_of(tx: Transaction, sweep: Sweep, trial: Trial) -> Job | None:
    if trial.job_id is None:
        return None
    try:
        return jobs.get(tx, trial.job_id, project=sweep.project)
    except JobNotFound:
        return None


def _is_over(trial: Trial) -> bool:
    return trial.state is not TrialState.RUNNING
