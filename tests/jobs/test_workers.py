"""Which workers are there, and which jobs they are large enough for."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text

from jobs.fitting import Verdict, check_capacity, fit, refusal, targets_of
from jobs.records import Worker, WorkerDevice
from jobs.store import workers
from trainer_core.errors import NothingFits
from trainer_core.inspection import Estimate, Target
from trainer_core.spec import parse_spec
from trainer_core.spec.estimating import Memory

GB = 1 << 30
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CPU = WorkerDevice("cpu", "cpu", "x86_64", 8 * GB, has_fast_bf16=False, num_threads=3)
GPU = WorkerDevice("cuda:0", "cuda", "A10", 24 * GB, has_fast_bf16=True, num_threads=1)


def spec_of(**changes: Any) -> Any:
    data = {"train": "dataset:ds_0123456789ab"}
    return parse_spec(
        {"task": "text-classification", "model": "model:tiny", "data": data, **changes}
    )


def worker_of(*devices: WorkerDevice, name: str = "worker-1") -> Worker:
    return Worker(name, num_slots=1, devices=devices, started_at=NOW, seen_at=NOW)


def estimate_of(device: WorkerDevice, low: int, expected: int) -> Estimate:
    (target,) = targets_of(spec_of(), [worker_of(device)])
    return Estimate(target, memory=Memory(low * GB, expected * GB, 2 * expected * GB))


def test_a_worker_is_there_from_its_first_beat_until_it_leaves(backends):
    with backends.database.transaction() as tx:
        workers.beat(tx, "worker-1", num_slots=2, devices=[CPU, GPU])
        workers.beat(tx, "worker-1", num_slots=2, devices=[CPU])
        (found,) = workers.present(tx)
        assert (found.name, found.num_slots, found.devices) == ("worker-1", 2, (CPU,))
        workers.leave(tx, "worker-1")
        assert workers.present(tx) == []


def test_a_silent_worker_is_gone_and_later_forgotten(backends):
    with backends.database.transaction() as tx:
        for name, silence in (("a", "30 seconds"), ("b", "5 minutes"), ("c", "2 hours")):
            workers.beat(tx, name, num_slots=1, devices=[CPU])
            tx.connection.execute(
                text(
                    "UPDATE workers SET seen_at = now() - CAST(:silence AS interval) "
                    "WHERE name = :name"
                ),
                {"name": name, "silence": silence},
            )
        workers.beat(tx, "d", num_slots=1, devices=[CPU])
        assert [worker.name for worker in workers.present(tx)] == ["a", "d"]
        assert [worker.name for worker in workers.present(tx, after="a", limit=1)] == ["d"]
        kept = tx.connection.execute(text("SELECT name FROM workers ORDER BY name")).scalars()
        assert list(kept) == ["a", "b", "d"]


@pytest.mark.parametrize(
    ("low", "expected", "verdict"),
    [(1, 7, Verdict.FITS), (7, 9, Verdict.MAY_FIT), (9, 12, Verdict.TOO_SMALL)],
)
def test_a_worker_is_judged_by_its_memory(low, expected, verdict):
    found = fit(worker_of(CPU), spec_of(), [estimate_of(CPU, low, expected)])
    assert (found.device, found.verdict) == ("cpu", verdict)


def test_the_best_device_of_a_worker_counts():
    estimates = [estimate_of(CPU, 9, 12), estimate_of(GPU, 9, 12)]
    found = fit(worker_of(CPU, GPU), spec_of(), estimates)
    assert (found.device, found.verdict) == ("cuda:0", Verdict.FITS)


def test_a_job_for_the_cpu_is_not_for_a_gpu():
    spec = spec_of(resources={"gpus": 0})
    assert fit(worker_of(GPU), spec, [estimate_of(GPU, 1, 2)]).verdict is Verdict.TOO_SMALL
    assert targets_of(spec, [worker_of(GPU)])[0].kind == "cpu"


def test_workers_without_an_estimate_are_not_refused():
    found = fit(worker_of(GPU), spec_of(), [])
    assert found.verdict is Verdict.UNKNOWN
    assert refusal([found], []) is None


def test_a_job_is_refused_where_no_worker_is_large_enough():
    estimates = [estimate_of(CPU, 9, 12)]
    error = refusal([fit(worker_of(CPU), spec_of(), estimates)], estimates)
    assert error is not None
    assert (error.code, error.whose) == ("nothing_fits", "capacity")
    assert "9.0 GiB" in error.message
    assert refusal([], estimates) is None  # nobody is there yet, and nobody knows who will be


def test_a_device_of_which_the_memory_is_not_known_is_taken_for_large_enough():
    unknown = replace(GPU, memory_bytes=None)
    assert fit(worker_of(unknown), spec_of(), [estimate_of(unknown, 90, 99)]).verdict is (
        Verdict.FITS
    )


@pytest.mark.parametrize(
    ("changes", "is_refused"),
    [
        ({}, True),
        ({"adapter": {"quantization": "4bit"}}, False),  # frozen weights have no moments
        ({"training": {"optimizer": "sgd"}}, False),
        ({"resources": {"gpus": 2, "parallel": {"strategy": "fsdp"}}}, False),
    ],
)
def test_a_submission_is_refused_by_the_state_of_its_weights_alone(changes, is_refused):
    spec, present = spec_of(**changes), [worker_of(GPU if "resources" in changes else CPU)]
    num_weights = 900_000_000  # 14.4 GB with Adam, 7.2 GB without moments, of which 80 % count
    if not is_refused:
        check_capacity(spec, num_weights=num_weights, workers=present)
        return
    with pytest.raises(NothingFits) as caught:
        check_capacity(spec, num_weights=num_weights, workers=present)
    assert caught.value.detail["least_bytes"] > caught.value.detail["largest_bytes"]


def test_a_job_for_gpus_is_refused_where_no_worker_has_one():
    spec = spec_of(resources={"gpus": 1})
    with pytest.raises(NothingFits, match="asks for GPUs") as caught:
        check_capacity(spec, num_weights=None, workers=[worker_of(CPU)])
    assert caught.value.param == "/resources/gpus"
    check_capacity(spec, num_weights=None, workers=[worker_of(CPU), worker_of(GPU)])
    check_capacity(spec, num_weights=None, workers=[])


def test_without_a_worker_or_a_known_size_nothing_is_refused():
    check_capacity(spec_of(), num_weights=10**12, workers=[])
    check_capacity(spec_of(), num_weights=None, workers=[worker_of(CPU)])


def test_without_a_worker_the_machine_of_the_service_is_looked_at():
    (target,) = targets_of(spec_of(), [])
    assert isinstance(target, Target)
    assert target.kind == "cpu"
