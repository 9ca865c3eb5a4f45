"""A worker says that it is there, and on what it trains."""

import time
from pathlib import Path

import pytest

from jobs.store import workers
from trainer_core.memory import limit_bytes
from worker.devices import Machine
from worker.presence import Presence

_SECONDS = 10


def test_a_worker_is_known_while_it_is_there(backends, settings):
    devices = Machine().chosen(settings.model_copy(update={"devices": ("cpu",)}))
    presence = Presence(backends.database, "worker-1", num_slots=2, devices=devices)
    presence.open()
    deadline = time.monotonic() + _SECONDS
    while not (found := _present(backends)):
        assert time.monotonic() < deadline, "it never said that it is there"
        time.sleep(0.02)
    assert (found[0].name, found[0].num_slots, found[0].devices) == ("worker-1", 2, devices)
    presence.close()
    assert _present(backends) == []


def _present(backends):
    with backends.database.transaction() as tx:
        return workers.present(tx)


def test_a_cpu_has_the_memory_that_a_job_may_have(settings):
    (whole,) = Machine().chosen(settings.model_copy(update={"devices": ("cpu",)}))
    assert (whole.kind, whole.memory_bytes) == ("cpu", limit_bytes())
    assert whole.num_threads == settings.num_training_threads
    less = settings.model_copy(update={"devices": ("cpu",), "job_memory_bytes": 1 << 30})
    assert Machine().chosen(less)[0].memory_bytes == 1 << 30


@pytest.fixture
def with_two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a driver's tool on the path that tells of two GPUs."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(
        "#!/bin/sh\necho '0, NVIDIA A10G, 23028, 8.6'\necho '1, Tesla T4, [N/A], 7.5'\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")


@pytest.mark.usefixtures("with_two_gpus")
def test_gpus_are_known_by_what_the_driver_tells(settings):
    first, second = Machine().chosen(settings)
    assert (first.name, first.kind, first.model) == ("cuda:0", "cuda", "NVIDIA A10G")
    assert (first.memory_bytes, first.has_fast_bf16) == (23028 << 20, True)
    assert (second.memory_bytes, second.has_fast_bf16) == (None, False)


@pytest.mark.usefixtures("with_two_gpus")
def test_the_devices_that_the_settings_name_are_those_of_the_worker(settings):
    named = settings.model_copy(update={"devices": ("cuda:1", "cpu")})
    assert [device.name for device in Machine().chosen(named)] == ["cuda:1", "cpu"]


@pytest.mark.usefixtures("with_two_gpus")
def test_a_slot_has_the_gpus_that_its_device_stands_for():
    machine = Machine()
    found = {device: machine.num_gpus(device) for device in ("cpu", "cuda:1", "cuda", "mps", None)}
    assert found == {"cpu": 0, "cuda:1": 1, "cuda": 2, "mps": 1, None: 2}


def test_a_slot_without_gpus_has_none():
    machine = Machine()
    assert (machine.num_gpus("cpu"), machine.num_gpus(None)) == (0, 0)
