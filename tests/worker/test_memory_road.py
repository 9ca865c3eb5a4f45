"""The whole road where memory is short: a real worker, real training, the kernel's kill."""

import sys

import pytest

from tests.training.tiny import COLOURS, WORDS, save_encoder
from tests.worker.groups import enter, limited_group, num_bytes_used, set_limit, wait_for
from worker.group import members_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's"),
]

MB = 1_000_000
BATCH = 4096
ROOM = 1300 * MB  # a step of the whole batch takes about 1,600, one of its half 1,000


@pytest.fixture(scope="module")
def base(road):
    road.settings = road.settings.model_copy(update={"warm_spare": False})
    folder = save_encoder(road.settings.model_roots[0] / "encoder", dropout=0.0)
    answer = road.client.post("/models", json={"name": "encoder", "path": str(folder)})
    assert answer.status_code == 201, answer.text
    filler = [" ".join(WORDS[(row + n) % len(WORDS)] for n in range(60)) for row in range(20)]
    rows = [f"{filler[row % 20]},{COLOURS[row % 3]}\n" for row in range(BATCH)]
    return road.upload("text,colour\n" + "".join(rows), name="long.csv")


def test_a_job_that_the_kernel_kills_shrinks_and_succeeds_under_the_same_worker(road, base):
    with limited_group(64_000 * MB) as group:
        worker = road.start_worker()
        wait_for(lambda: len(members_of(worker.pid)) > 1, seconds=60)  # the pool's child is up
        enter(group, [one.pid for one in members_of(worker.pid)])
        job_id = road.submit(
            {
                "task": "text-classification",
                "model": "model:encoder",
                "data": {"train": f"dataset:{base}", "columns": {"label": "colour"}, "eval": None},
                "training": {"max_steps": 2, "batch_size": BATCH, "micro_batch_size": BATCH},
                "resources": {"on_oom": "shrink"},
            }
        )
        set_limit(group, num_bytes_used(group) + ROOM)
        ended = road.wait_for_end(job_id)
        road.stop_workers()
    assert ended["state"] == "succeeded", ended["error"]
    first, second = ended["attempts"]
    assert first["reason"] == f"out_of_memory: goes on with a micro-batch of {BATCH // 2}"
    assert first["worker"] == second["worker"]
    assert ended["spec"]["training"]["micro_batch_size"] == BATCH
    assert ended["resolved"]["spec"]["training"]["micro_batch_size"] == BATCH // 2
    assert ended["max_attempts"] == road.settings.max_attempts + 1
    (error,) = [e["data"] for e in road.events(job_id) if e["type"] == "error"]
    assert error["code"] == "out_of_memory"
    assert error["detail"]["peak_bytes"] > 0.5 * ROOM

    again = road.submit(error["detail"]["suggested_spec"])  # as it is
    assert road.job(again)["spec"]["training"]["micro_batch_size"] == BATCH // 2
    road.client.post(f"/jobs/{again}/cancel")
