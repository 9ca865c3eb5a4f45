from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.tiny import carry_out, colour_rows, events_of, make_run, save_encoder
from trainer_core.errors import CapacityError, InvalidSetting, InvalidSpec
from trainer_core.rows.files import InputFile
from trainer_core.run_directory import Inputs, RunDirectory, write_json
from trainer_core.spec import JobSpec, parse_spec
from trainer_core.training import __main__, preparing
from trainer_core.training.loop.arguments import check_arguments
from trainer_core.training.process.devices import Device, choose_device
from trainer_core.training.process.stopping import Stopping

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


@pytest.mark.parametrize(
    ("device", "gpus", "num_there", "words"),
    [
        ("cpu", 1, 8, "resources.gpus is 1, and this worker has no GPU to use"),
        (None, 64, 0, "resources.gpus is 64, and this worker has no GPU to use"),
        ("cuda", 3, 2, "resources.gpus is 3, and this worker has 2 GPUs to use"),
        ("cuda:1", 2, 8, "resources.gpus is 2, and this worker has 1 GPU to use"),
    ],
)
def test_more_gpus_than_there_are_is_refused_with_their_number(
    monkeypatch: pytest.MonkeyPatch, device: str | None, gpus: int, num_there: int, words: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_there)
    with pytest.raises(CapacityError, match=words) as caught:
        choose_device(_inputs(device), _spec(gpus=gpus))
    assert caught.value.param == "resources.gpus"


def test_processes_that_there_is_no_gpu_for_are_not_left_out_in_silence() -> None:
    inputs = replace(_inputs(None), num_processes=2)
    with pytest.raises(CapacityError, match="2 processes are to share the run"):
        choose_device(inputs, _spec())


@pytest.mark.parametrize(
    ("device", "num_processes", "expected"),
    [(None, 64, 1), ("cuda", 3, 1), ("cuda", 2, 2), ("cuda:0", 2, 1), ("cpu", 3, 3)],
)
def test_no_more_processes_are_launched_than_there_are_gpus(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str | None,
    num_processes: int,
    expected: int,
) -> None:
    launched: list[int] = []

    class Launched:
        def __init__(self, _directory: RunDirectory, *, count: int, **_: object) -> None:
            launched.append(count)

        def wait(self) -> int:
            return 0

    def carried_out(*_: object, **__: object) -> int:
        launched.append(1)
        return 0

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(__main__, "Launch", Launched)
    monkeypatch.setattr(__main__, "_carried_out", carried_out)
    monkeypatch.setattr(Stopping, "listen", lambda *_, **__: None)
    directory = make_run(tmp_path / "run", model=tmp_path, rows=colour_rows(3), spec={})
    inputs = replace(directory.read_inputs(), device=device, num_processes=num_processes)
    write_json(directory.inputs, inputs.to_dict())
    assert __main__.main([str(directory.path)]) == 0
    assert launched == [expected]


@pytest.mark.parametrize(("setting", "value"), [("precision", "fp16"), ("tf32", True)])
def test_what_a_device_can_not_do_is_refused_before_there_are_tokens(
    tmp_path: Path, setting: str, value: object
) -> None:
    spec = {"task": "text-classification", "training": {"precision": "fp32", setting: value}}
    model = save_encoder(tmp_path / "model")
    directory = make_run(tmp_path / "run", model=model, rows=colour_rows(30), spec=spec)
    error = carry_out(directory).error
    assert error is not None
    assert (error.code, error.param) == ("invalid_spec", f"/training/{setting}")
    phases = [line.data["phase"] for line in events_of(directory, "phase")]
    assert phases == ["preparing", "loading"]


def test_a_run_without_its_gpus_reads_no_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object) -> None:
        raise AssertionError("a file was read")

    monkeypatch.setattr(preparing, "data_hashes", read)
    spec = {"task": "text-classification", "resources": {"gpus": 64}}
    directory = make_run(tmp_path / "run", model=tmp_path, rows=colour_rows(3), spec=spec)
    error = carry_out(directory).error
    assert error is not None
    assert error.message == "resources.gpus is 64, and this worker has no GPU to use."


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


def test_tf32_is_refused_where_there_is_none() -> None:
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
        check_arguments(spec, device=device)
