"""Sweeps over HTTP, with workers that say what each trial is worth."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from jobs.backends import Backends, connect
from jobs.records import Job
from jobs.settings import Settings
from jobs.states import State
from jobs.store import attempts, events, jobs
from jobs.store.events import NewEvent
from jobs.sweeps.engine import look
from tests.api.conftest import Shared, claim, spec_of, upload
from trainer_core.errors import Diverged
from trainer_core.events import EventType

pytestmark = pytest.mark.slow

RATE = "/training/learning_rate"
RATES = [1e-5, 1e-4, 1e-3, 1e-2]


def create(client: httpx.Client, **changes: Any) -> dict[str, Any]:
    response = client.post("/sweeps", json=body_of(client, **changes))
    assert response.status_code == 201, response.text
    return dict(response.json())


def body_of(client: httpx.Client, **changes: Any) -> dict[str, Any]:
    dataset = upload(client)
    spec = spec_of(dataset, data={"train": f"dataset:{dataset}", "eval": 0.1}, labels={"a": "b"})
    space = {RATE: {"type": "choice", "values": RATES}}
    return {"spec": spec, "space": space, "sampler": "grid", "name": "rates", **changes}


def measure(backends: Backends, job: Job, values: dict[int, float]) -> None:
    """Tell of evaluations of a job, as its worker does."""
    new = [
        NewEvent(
            EventType.METRICS,
            {"split": "eval", "step": step, "epoch": 1.0, "metrics": {"accuracy": value}},
        )
        for step, value in values.items()
    ]
    last = max(values)
    with backends.database.transaction() as tx:
        events.append(tx, job.id, new, attempt=job.attempt)
        metrics = {"eval": {"accuracy": values[last], "step": last}}
        attempts.note(tx, job.id, attempt=job.attempt, values={"metrics": metrics})


def end(backends: Backends, job: Job, state: State, **values: Any) -> None:
    with backends.database.transaction() as tx:
        attempts.end(tx, job.id, state, attempt=job.attempt, reason="test", values=values)


def finish(backends: Backends, job: Job, accuracy: float | None) -> None:
    """End a job as a worker does: with a value, or with an error."""
    if accuracy is None:
        error = Diverged("the loss is NaN.").to_typed().to_dict()
        end(backends, job, State.FAILED, error=error)
    else:
        best = {"step": 10, "metrics": {"accuracy": accuracy}}
        end(backends, job, State.SUCCEEDED, best=best)


def run_all(backends: Backends, worth: Callable[[Job], float | None]) -> list[int]:
    """Be the workers until nothing is queued; return how many ran at each look."""
    running = []
    while True:
        claimed = []
        while (job := claim_next(backends)) is not None:
            claimed.append(job)
        if not claimed:
            return running
        running.append(len(claimed))
        for job in claimed:
            finish(backends, job, worth(job))
        look(backends)


def claim_next(backends: Backends) -> Job | None:
    with backends.database.transaction() as tx:
        return attempts.claim(tx, worker="worker-1", lease_seconds=60)


def rate_of(job: Job) -> float:
    return float(job.spec["training"]["learning_rate"])


def test_grid_is_run_and_the_best_model_is_named(client: httpx.Client, backends: Backends) -> None:
    created = create(client)

    ran = run_all(backends, lambda job: 0.9 if rate_of(job) == 1e-3 else 0.5)

    sweep = client.get(f"/sweeps/{created['id']}").json()
    assert (sweep["state"], sweep["reason"]) == ("succeeded", "4 of 4 trials succeeded")
    assert ran == [2, 2]  # max_parallel is 2
    assert [trial["params"][RATE] for trial in sweep["trials"]] == RATES
    assert [trial["value"] for trial in sweep["trials"]] == [0.5, 0.5, 0.9, 0.5]
    best = sweep["best"]
    assert (best["number"], best["value"], best["params"]) == (2, 0.9, {RATE: 1e-3})
    assert best["model"] == f"job:{best['job_id']}"
    job = client.get(f"/jobs/{best['job_id']}").json()
    assert (job["sweep_id"], job["name"], job["labels"]) == (sweep["id"], "rates 2", {"a": "b"})


def test_no_more_than_the_cap_are_submitted_at_a_time(
    client: httpx.Client, backends: Backends
) -> None:
    created = create(client, max_parallel=3)

    look(backends)
    look(backends)

    sweep = client.get(f"/sweeps/{created['id']}").json()
    assert created["num_trials"]["running"] == sweep["num_trials"]["running"] == 3
    assert len(client.get("/jobs").json()["data"]) == 3


def test_trials_that_fail_do_not_end_the_sweep(client: httpx.Client, backends: Backends) -> None:
    created = create(client)

    run_all(backends, lambda job: None if rate_of(job) > 1e-4 else 0.5)

    sweep = client.get(f"/sweeps/{created['id']}").json()
    assert (sweep["state"], sweep["reason"]) == ("succeeded", "2 of 4 trials succeeded")
    assert sweep["trials"][3]["state"] == "failed"
    assert sweep["trials"][3]["reason"] == "the loss is NaN."
    assert sweep["best"]["number"] == 0


def test_sweep_fails_if_all_trials_do(client: httpx.Client, backends: Backends) -> None:
    created = create(client)

    run_all(backends, lambda _: None)

    sweep = client.get(f"/sweeps/{created['id']}").json()
    assert (sweep["state"], sweep["best"]) == ("failed", None)
    assert sweep["num_trials"]["failed"] == 4


def test_clearly_worse_trial_is_pruned(client: httpx.Client, backends: Backends) -> None:
    space = {RATE: {"type": "float", "low": 1e-5, "high": 1e-2, "log": True}}
    pruner = {"type": "median", "startup_trials": 2}
    created = create(
        client, space=space, sampler="random", max_trials=4, max_parallel=1, pruner=pruner
    )
    for _ in range(2):
        job = claim(backends)
        measure(backends, job, {5: 0.6, 10: 0.8})
        finish(backends, job, 0.8)
        look(backends)
    bad = claim(backends)

    measure(backends, bad, {5: 0.1})
    look(backends)
    asked = client.get(f"/jobs/{bad.id}").json()["state"]
    again = client.get(f"/sweeps/{created['id']}/trials?after=1").json()["data"][0]
    look(backends)  # nothing more is asked of a job that is being cancelled
    end(backends, bad, State.CANCELLED)
    look(backends)

    trial = client.get(f"/sweeps/{created['id']}").json()["trials"][2]
    assert (asked, again["state"]) == ("cancelling", "running")
    assert (trial["state"], trial["value"], trial["measured"]) == ("pruned", None, {"5": 0.1})
    assert trial["reason"].startswith("pruned at step 5: accuracy 0.1 is worse than the median")
    good = claim(backends)
    measure(backends, good, {5: 0.7})
    look(backends)
    assert client.get(f"/jobs/{good.id}").json()["state"] == "running"


def test_service_that_starts_anew_goes_on_as_if_it_had_not_stopped(
    client: httpx.Client, backends: Backends, settings: Settings
) -> None:
    space = {RATE: {"type": "float", "low": 1e-6, "high": 1.0, "log": True}}
    plan = {"space": space, "sampler": "tpe", "max_trials": 12, "max_parallel": 1, "seed": 5}

    def tried(others: bool) -> list[float]:
        created = create(client, **plan)
        for number in range(12):
            job = claim(backends)
            finish(backends, job, 1 - abs(rate_of(job) - 1e-3))
            service = connect(settings) if others and number % 3 == 0 else backends
            look(service)
            if service is not backends:
                service.engine.dispose()
        sweep = client.get(f"/sweeps/{created['id']}").json()
        assert sweep["state"] == "succeeded"
        return [trial["params"][RATE] for trial in sweep["trials"]]

    assert tried(others=False) == tried(others=True)


def test_look_that_breaks_leaves_no_half(
    client: httpx.Client, backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = create(client)
    finish(backends, claim(backends), 0.5)

    def broken(*args: object, **options: object) -> None:
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr("jobs.sweeps.engine.next_params", broken)
        look(backends)
    during = client.get(f"/sweeps/{created['id']}").json()
    look(backends)
    after = client.get(f"/sweeps/{created['id']}").json()

    assert (during["num_trials"]["running"], during["num_trials"]["succeeded"]) == (2, 0)
    assert (after["num_trials"]["running"], after["num_trials"]["succeeded"]) == (2, 1)
    assert len(client.get("/jobs").json()["data"]) == 3


def test_cancelled_sweep_cancels_its_jobs_and_submits_no_more(
    client: httpx.Client, backends: Backends
) -> None:
    path = f"/sweeps/{create(client)['id']}"
    running = claim(backends)

    cancelled = client.post(f"{path}/cancel").json()
    again = client.post(f"{path}/cancel").json()
    states = {job["state"] for job in client.get("/jobs").json()["data"]}
    end(backends, running, State.CANCELLED)
    look(backends)

    sweep = client.get(path).json()
    assert (cancelled["state"], cancelled["reason"]) == ("cancelled", "cancelled by request")
    assert again["finished_at"] == cancelled["finished_at"]
    assert states == {"cancelling", "cancelled"}
    assert sweep["num_trials"] == {
        "running": 0, "succeeded": 0, "failed": 0, "pruned": 0, "cancelled": 2,
    }  # fmt: skip
    assert len(client.get("/jobs").json()["data"]) == 2


def test_deleted_job_of_a_trial_leaves_its_value(client: httpx.Client, backends: Backends) -> None:
    created = create(client)
    run_all(backends, rate_of)
    best = client.get(f"/sweeps/{created['id']}").json()["best"]

    assert client.delete(f"/jobs/{best['job_id']}").status_code == 204

    left = client.get(f"/sweeps/{created['id']}").json()["best"]
    assert (left["value"], left["job_id"], left["model"]) == (best["value"], None, None)


def test_sweeps_and_trials_are_listed_in_pages(client: httpx.Client) -> None:
    first, second = create(client), create(client)

    newest = client.get("/sweeps?limit=1").json()
    older = client.get(f"/sweeps?after={second['id']}").json()
    trials = client.get(f"/sweeps/{first['id']}/trials?limit=1").json()
    more = client.get(f"/sweeps/{first['id']}/trials?after=0").json()

    assert ([one["id"] for one in newest["data"]], newest["has_more"]) == ([second["id"]], True)
    assert ([one["id"] for one in older["data"]], older["has_more"]) == ([first["id"]], False)
    assert ([one["number"] for one in trials["data"]], trials["has_more"]) == ([0], True)
    assert [one["number"] for one in more["data"]] == [1]


def test_same_key_makes_one_sweep(client: httpx.Client) -> None:
    body = body_of(client)
    headers = {"Idempotency-Key": "rates-1"}

    first, again = (client.post("/sweeps", json=body, headers=headers) for _ in range(2))

    assert first.json() == again.json()
    assert again.headers["Idempotency-Replayed"] == "true"
    assert len(client.get("/sweeps").json()["data"]) == 1
    assert len(client.get("/jobs").json()["data"]) == 2


def test_rows_of_the_base_spec_are_checked_and_nothing_is_made(shared: Shared) -> None:
    body = body_of(shared.client)
    body["spec"]["data"]["train"] = "dataset:ds_unknown00000"
    body["spec"]["training"] = {"epochs": -1}

    both = shared.client.post("/sweeps", json=body)
    del body["spec"]["training"]
    missing = shared.client.post("/sweeps", json=body)
    choices = {"/model": {"type": "choice", "values": ["hub:org/encoder", "model:unknown"]}}
    unknown = shared.client.post("/sweeps", json=body_of(shared.client, space=choices))

    assert [error["pointer"] for error in both.json()["errors"]] == ["/spec/training/epochs"]
    assert [error["pointer"] for error in missing.json()["errors"]] == ["/spec/data/train"]
    assert [error["pointer"] for error in unknown.json()["errors"]] == ["/space/~1model/values/1"]
    assert shared.client.get("/sweeps").json()["data"] == []


def test_unknown_sweep_is_told(shared: Shared) -> None:
    for method, path in [("GET", ""), ("GET", "/trials"), ("POST", "/cancel")]:
        response = shared.client.request(method, f"/sweeps/sweep_none{path}")
        assert (response.status_code, response.json()["code"]) == (404, "sweep_not_found")


def test_job_that_is_cancelled_by_hand_is_a_cancelled_trial(
    client: httpx.Client, backends: Backends
) -> None:
    created = create(client)
    with backends.database.transaction() as tx:
        first = jobs.cancel(tx, created_job(client, created), project="default")
    look(backends)

    sweep = client.get(f"/sweeps/{created['id']}").json()
    assert (first.state, sweep["trials"][0]["state"]) == (State.CANCELLED, "cancelled")
    assert sweep["num_trials"]["running"] == 2


def created_job(client: httpx.Client, sweep: dict[str, Any]) -> str:
    return str(client.get(f"/sweeps/{sweep['id']}").json()["trials"][0]["job_id"])
