from pathlib import Path
from typing import Any

import pytest

from trainer_core.errors import CapacityError, InvalidSetting, InvalidSpec
from trainer_core.rows.files import InputFile
from trainer_core.run_directory import Inputs
from trainer_core.spec import JobSpec, parse_spec
from trainer_core.training.arguments import training_arguments
from trainer_core.training.devices import Device, choose_device

pytestmark = pytest.mark.slow  # it imports torch


def _inputs(device: str | None) -> Inputs:
    return Inputs(model=Path("model"), train=InputFile(Path("a.csv"), "a.csv"), device=device)


def _spec(**resources: Any) -> JobSpec:
    data = {"train": "dataset:ds_0123456789ab"}
    values = {"task": "text-classification", "model": "model:tiny", "data": data}
    return parse_spec({**values, "resources": resources})


@pytest.mark.parametrize("name", ["cuda:x", "cuda:-1", "cuda:", "gpu", "CPU", ""])
def test_a_device_that_is_none_is_a_wrong_setting(name: str) -> None:
    with pytest.raises(InvalidSetting, match=f"'{name}' is no device") as caught:
        choose_device(_inputs(name), _spec())
    assert caught.value.param == "device"


def test_the_cpu_is_chosen_by_name_and_by_the_spec() -> None:
    assert choose_device(_inputs("cpu"), _spec()).kind == "cpu"
    assert choose_device(_inputs(None), _spec(gpus=0)).kind == "cpu"


def test_gpus_on_a_worker_of_the_cpu_are_too_much_to_ask() -> None:
    with pytest.raises(CapacityError, match=r"resources\.gpus is 1"):
        choose_device(_inputs("cpu"), _spec(gpus=1))


@pytest.mark.parametrize(
    ("kind", "has_fast_bf16", "computed"),
    [
        ("cpu", False, {"fp32", "bf16"}),
        ("cuda", False, {"fp32", "fp16"}),
        ("cuda", True, {"fp32", "fp16", "bf16"}),
    ],
)
def test_a_device_knows_what_it_computes(
    kind: Any, has_fast_bf16: bool, computed: set[str]
) -> None:
    device = Device(kind=kind, name=kind, memory_bytes=None, has_fast_bf16=has_fast_bf16)
    assert {name for name in ("fp32", "bf16", "fp16") if device.computes(name)} == computed


def test_tf32_is_refused_where_there_is_none(tmp_path: Path) -> None:
    spec = parse_spec(
        {
            "task": "text-classification",
            "model": "model:tiny",
            "data": {"train": "dataset:ds_0123456789ab"},
            "training": {"tf32": True, "precision": "fp32"},
        }
    )
    device = Device(kind="cpu", name="cpu", memory_bytes=None, has_fast_bf16=False)
    with pytest.raises(InvalidSpec, match="cpu has no TF32"):
        training_arguments(spec, folder=tmp_path, device=device, num_steps=1, has_evaluation=False)
