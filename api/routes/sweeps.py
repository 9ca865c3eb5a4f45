"""Sweeps: searches for the best values of a spec's fields, made of ordinary jobs."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.concurrency import run_in_threadpool

from api import openapi, problems
from api.access import Caller, Reader, Submitter
from api.bodies import JsonBody
from api.dependencies import Limit, PageParameters, Parameters, Service, SweepId
from api.idempotency import Idempotent, Once
from api.reading import RowReaders
from api.sweep_schemas import Sweep, SweepDetail, SweepPage, Trial, TrialPage
from jobs import submission
from jobs.backends import Backends
from jobs.sealing import cipher_of
from jobs.store import audit, sweeps
from jobs.sweeps import engine
from jobs.sweeps.checking import parse_plan, variants
from jobs.sweeps.plan import Plan
from trainer_core.errors import FieldProblem, InvalidSpec

router = APIRouter(tags=["sweeps"])

_EXAMPLE = {
    "name": "learning rates",
    "spec": {
        "task": "text-classification",
        "model": "hub:org/encoder",
        "data": {"train": "dataset:ds_00000000", "eval": 0.1},
    },
    "space": {
        "/training/learning_rate": {"type": "float", "low": 1e-5, "high": 1e-3, "log": True},
        "/training/batch_size": {"type": "choice", "values": [16, 32]},
    },
    "max_trials": 12,
    "max_parallel": 2,
    "pruner": {"type": "median"},
}


class TrialParameters(Parameters):
    """Which trials to list."""

    after: Annotated[int, Query(description="Number of the last one seen.", ge=-1, le=10**6)] = -1
    limit: Limit = 20


@router.post(
    "/sweeps",
    status_code=201,
    response_model=Sweep,
    responses=problems.responses(400, 409, 413, 415, 422, 503),
    openapi_extra=openapi.body(
        {
            "schema": {"$ref": "#/components/schemas/Plan"},
            "examples": {"two fields": {"value": _EXAMPLE}},
        }
    ),
)
async def create_sweep(
    caller: Submitter, service: Service, readers: RowReaders, body: JsonBody, once: Idempotent
) -> Response:
    """Search for the best values of some fields of a job's spec: a grid, at random, or by TPE.

    Each trial is an ordinary job, with the id of the sweep; at most `max_parallel` of them run at a
    time. They are compared by a metric on the evaluation rows, and the best one's model is named. A
    trial that fails does not end the sweep. With a pruner, jobs that are clearly worse than others
    at the same step are cancelled.
    """
    plan = await run_in_threadpool(parse_plan, body)
    check = partial(_check, service, plan, project=caller.project)
    await readers.run(check)
    return await run_in_threadpool(_create, service, plan, caller, once)


@router.get("/sweeps", responses=problems.responses(422))
def list_sweeps(
    caller: Reader, service: Service, parameters: Annotated[PageParameters, Query()]
) -> SweepPage:
    """List sweeps, newest first."""
    limit = parameters.limit
    with service.database.transaction() as tx:
        found = sweeps.page(tx, project=caller.project, after=parameters.after, limit=limit + 1)
        shown = [Sweep.of(one, trials=sweeps.trials_of(tx, one.id)) for one in found[:limit]]
    return SweepPage(data=shown, has_more=len(found) > limit)


@router.get("/sweeps/{sweep_id}", responses=problems.responses(404))
def get_sweep(caller: Reader, service: Service, sweep_id: SweepId) -> SweepDetail:
    """Return a sweep with its trials; the best one so far is named."""
    with service.database.transaction() as tx:
        sweep = sweeps.get(tx, sweep_id, project=caller.project)
        return SweepDetail.whole(sweep, trials=sweeps.trials_of(tx, sweep.id))


@router.get("/sweeps/{sweep_id}/trials", responses=problems.responses(404, 422))
def list_trials(
    caller: Reader,
    service: Service,
    sweep_id: SweepId,
    parameters: Annotated[TrialParameters, Query()],
) -> TrialPage:
    """List the trials of a sweep by number."""
    limit = parameters.limit
    with service.database.transaction() as tx:
        sweep = sweeps.get(tx, sweep_id, project=caller.project)
        found = sweeps.trials_of(tx, sweep.id, after=parameters.after, limit=limit + 1)
    shown = [Trial.model_validate(trial) for trial in found[:limit]]
    return TrialPage(data=shown, has_more=len(found) > limit)


@router.post("/sweeps/{sweep_id}/cancel", responses=problems.responses(404))
def cancel_sweep(caller: Submitter, service: Service, sweep_id: SweepId) -> SweepDetail:
    """Cancel a sweep with its jobs; one that has ended is left as it is.

    The jobs that run are `cancelling` until their workers have stopped them.
    """
    with service.database.transaction() as tx:
        sweep = engine.cancel(tx, sweep_id, project=caller.project)
        audit.note(tx, caller=caller, action="sweep.cancel", target=sweep_id)
        return SweepDetail.whole(sweep, trials=sweeps.trials_of(tx, sweep.id))


def _check(service: Backends, plan: Plan, *, project: str) -> None:
    problems_found: list[FieldProblem] = []
    cipher = cipher_of(service.settings)
    with service.database.transaction() as tx:  # the names of its jobs begin with it
        submission.check_secrets(tx, {"name": plan.name}, project=project, cipher=cipher)
    for variant in variants(plan):
        try:
            if variant.has_other_rows:
                submission.check(service, variant.spec, project=project)
            else:
                with service.database.transaction() as tx:
                    home = service.settings.home
                    submission.look_up(tx, variant.spec, project=project, home=home, cipher=cipher)
        except InvalidSpec as error:
            problems_found.extend(map(variant.placed, error.problems))
    if problems_found:
        raise InvalidSpec(problems_found)


def _create(service: Backends, plan: Plan, caller: Caller, once: Once) -> Response:
    with service.database.transaction() as tx:
        values = plan.model_dump(mode="json")
        sweep = sweeps.create(tx, project=caller.project, name=plan.name, plan=values)
        audit.note(tx, caller=caller, action="sweep.create", target=sweep.id)
        engine.advance(tx, sweep, max_attempts=service.settings.max_attempts)
        shown = Sweep.of(sweep, trials=sweeps.trials_of(tx, sweep.id))
        return once.answer(tx, shown, location=f"/sweeps/{sweep.id}")
