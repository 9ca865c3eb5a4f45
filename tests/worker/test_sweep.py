"""A whole sweep: `POST /sweeps`, a worker that trains its trials, and the best model named."""

import time

import pytest

from tests.training.tiny import save_encoder
from tests.worker.test_road import rows_of_colours, spec_of

pytestmark = pytest.mark.slow

RATE = "/training/learning_rate"
TOO_SMALL, FINE, LARGER = 1e-7, 0.003, 0.01
SWEEP_SECONDS = 400  # three short jobs, on a slow machine


def test_sweep_of_three_trials_names_the_best_model(forked_road):
    road = forked_road
    folder = save_encoder(road.settings.model_roots[0] / "encoder")
    registered = road.client.post("/models", json={"name": "encoder", "path": str(folder)})
    assert registered.status_code == 201
    spec = spec_of(road.upload(rows_of_colours(120), name="colours.csv"), epochs=4)
    spec["data"]["eval"] = 0.2
    road.start_worker()
    plan = {
        "spec": spec,
        "space": {RATE: {"type": "choice", "values": [TOO_SMALL, FINE, LARGER]}},
        "sampler": "grid",
        "max_parallel": 1,
    }
    made = road.client.post("/sweeps", json=plan)
    assert made.status_code == 201, made.text
    sweep = wait_for_end(road, made.json()["id"])
    assert sweep["state"] == "succeeded"
    trials = road.client.get(f"/sweeps/{sweep['id']}/trials").json()["data"]
    assert [trial["state"] for trial in trials] == ["succeeded"] * 3
    assert sorted(trial["params"][RATE] for trial in trials) == [TOO_SMALL, FINE, LARGER]
    for trial in trials:
        assert trial["value"] == road.job(trial["job_id"])["best"]["metrics"]["accuracy"]
    best = sweep["best"]
    assert best["value"] == max(trial["value"] for trial in trials)
    assert best["params"][RATE] != TOO_SMALL
    assert best["model"] == f"job:{best['job_id']}"
    assert road.client.get(f"/jobs/{best['job_id']}/model/config.json").status_code == 200


def wait_for_end(road, sweep_id):
    deadline = time.monotonic() + SWEEP_SECONDS
    while (sweep := road.client.get(f"/sweeps/{sweep_id}").json())["state"] == "running":
        assert time.monotonic() < deadline, sweep
        time.sleep(0.2)
    return sweep
