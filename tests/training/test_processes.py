"""Several processes carry out a run as one would; each imports torch, so there are few."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.commands import COMMAND, START_SECONDS, Start, commands, order, wait_for_step
from tests.training.tiny import (
    WORDS,
    carry_out,
    colour_rows,
    events_of,
    make_run,
    save_decoder,
    save_encoder,
)
from trainer_core.errors import CapacityError, InvalidSpec
from trainer_core.rows.files import InputFile
from trainer_core.run_directory import (
    Inputs,
    Result,
    RunDirectory,
    StopRequest,
    file_sha256,
    read_json,
    verified_manifest,
    write_json,
)
from trainer_core.spec import parse_spec
from trainer_core.training.loop.arguments import check_arguments, deepspeed_settings
from trainer_core.training.process import processes
from trainer_core.training.process.devices import Device, choose_device

pytestmark = pytest.mark.slow

FSDP = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
TRAINING = {
    "epochs": 2,
    "learning_rate": 1e-2,
    "batch_size": 8,
    "micro_batch_size": 1,  # so that each process goes through several
    "log_steps": 1,
    "optimizer": "adamw_torch",
    "adam_epsilon": 1e-3,  # else it makes full steps of gradients that are only rounding
}
# Five steps an epoch, of which the last has one row: the other process has none of its own there.
NUM_ROWS = 33
CHECKPOINTS = {"strategy": "steps", "steps": 7, "keep": 9}  # and the best ones, of steps 5 or 10
SPEC = {
    "task": "text-classification",
    "model": "model:tiny",
    "data": {"train": "dataset:ds_0123456789ab"},
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("models") / "encoder", dropout=0.0)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_decoder(tmp_path_factory.mktemp("models") / "decoder")


def _texts(count: int) -> list[dict[str, str]]:
    """Return texts of 1 to 20 words."""
    return [
        {"text": " ".join(WORDS[(number + place) % len(WORDS)] for place in range(1 + number % 20))}
        for number in range(count)
    ]


def _rows_of(task: str, count: int) -> list[dict[str, Any]]:
    texts = [row["text"] for row in _texts(count)]
    match task:
        case "causal-lm":
            return [{"text": text} for text in texts]
        case "kto":
            return [
                {"prompt": text, "completion": f" {WORDS[number % 7]}", "label": number % 3 == 0}
                for number, text in enumerate(texts)
            ]
        case _:
            return colour_rows(count, seed=count)


def _make(folder: Path, model: Path, *, processes: int, **parts: Any) -> RunDirectory:
    spec = {
        "task": "text-classification",
        "training": TRAINING,
        "checkpoints": CHECKPOINTS,
        "evaluation": {"baseline": False, "metric": "loss"},
        **parts,
    }
    rows, held_out = (_rows_of(spec["task"], count) for count in (NUM_ROWS, 7))
    directory = make_run(folder, model=model, rows=rows, spec=spec, eval=held_out)
    inputs = read_json(directory.inputs)
    write_json(directory.inputs, {**inputs, "num_processes": processes})
    return directory


@pytest.fixture(scope="module")
def alone(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    directory = _make(tmp_path_factory.mktemp("alone") / "run", encoder, processes=1)
    assert carry_out(directory).result is Result.SUCCEEDED
    return directory


@pytest.fixture(scope="module")
def together(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    directory = _make(tmp_path_factory.mktemp("together") / "run", encoder, processes=2)
    assert _carry_out_together(directory).count("step 10, eval: loss") == 1  # one of them speaks
    return directory


def _carry_out_together(directory: RunDirectory) -> str:
    """Carry out a run by the command, in as many processes as its inputs say."""
    done = subprocess.run(
        [*COMMAND, str(directory.path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _losses(directory: RunDirectory) -> list[float]:
    metrics = [line.data for line in events_of(directory, "metrics")]
    return [one["metrics"]["loss"] for one in metrics]


def _assert_same_run(directory: RunDirectory, expected: RunDirectory) -> None:
    # fp32: sums in another order.
    assert _losses(directory) == pytest.approx(_losses(expected), rel=1e-5)
    weights = load_file(directory.model / "model.safetensors")
    for name, tensor in load_file(expected.model / "model.safetensors").items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-5, atol=1e-5)
    outcome, other = read_json(directory.outcome), read_json(expected.outcome)
    assert outcome.pop("metrics") == pytest.approx(other.pop("metrics"), rel=1e-5)
    assert outcome == other


def test_two_processes_follow_the_path_of_one(alone: RunDirectory, together: RunDirectory) -> None:
    _assert_same_run(together, alone)
    assert read_json(together.lineage)["num_processes"] == 2


@pytest.mark.parametrize(
    "parts",
    [
        {"task": "causal-lm"},
        {"task": "causal-lm", "packing": True, "adapter": {"dropout": 0.0}},
        {"task": "kto"},
    ],
    ids=["whole", "adapter, packed", "answers of others"],
)
def test_two_processes_weigh_every_token_alike(
    decoder: Path, tmp_path: Path, parts: dict[str, Any]
) -> None:
    alone, together = (
        _make(tmp_path / str(count), decoder, processes=count, **parts) for count in (1, 2)
    )
    assert carry_out(alone).result is Result.SUCCEEDED
    _carry_out_together(together)
    _assert_same_run(together, alone)


def _assert_resumed(directory: RunDirectory, *, step: int) -> None:
    told = [line.data["message"] for line in events_of(directory, "log")]
    assert any(f"resuming from checkpoint-{step}" in message for message in told)


def test_two_processes_go_on_as_if_they_had_never_stopped(
    encoder: Path, tmp_path: Path, together: RunDirectory
) -> None:
    directory = _make(tmp_path / "run", encoder, processes=2)
    shutil.copytree(together.checkpoints, directory.checkpoints)
    shutil.rmtree(directory.checkpoints / "checkpoint-10")  # as if it had not come so far
    _carry_out_together(directory)
    _assert_resumed(directory, step=7)
    for path in ("model/model.safetensors", "checkpoints/checkpoint-10/model.safetensors"):
        assert file_sha256(directory.path / path) == file_sha256(together.path / path)


def test_a_model_shared_out_by_fsdp_follows_the_same_path_and_is_resumed(
    encoder: Path, tmp_path: Path, alone: RunDirectory
) -> None:
    shared = {"resources": {"parallel": {"strategy": "fsdp"}}}
    directory = _make(tmp_path / "run", encoder, processes=2, **shared)
    _carry_out_shared(directory)
    _assert_same_run(directory, alone)
    checkpoint = directory.checkpoints / "checkpoint-7"
    assert (checkpoint / "pytorch_model_fsdp.bin").exists()
    first = file_sha256(directory.model / "model.safetensors")
    shutil.rmtree(directory.checkpoints / "checkpoint-10")  # as if it had not come so far
    _carry_out_shared(directory)
    _assert_resumed(directory, step=7)
    assert file_sha256(directory.model / "model.safetensors") == first


def test_a_model_shared_out_is_handed_out_as_it_was_at_its_best(
    encoder: Path, tmp_path: Path
) -> None:
    shared = {"resources": {"parallel": {"strategy": "fsdp"}}}
    best_first = {"evaluation": {"baseline": False, "metric": "accuracy"}}  # which stays the same
    directory = _make(tmp_path / "run", encoder, processes=2, **shared, **best_first)
    _carry_out_shared(directory)
    assert read_json(directory.outcome)["best_step"] == 5


def _carry_out_shared(directory: RunDirectory) -> None:
    script = str(Path(__file__).with_name("fsdp_on_cpu.py"))
    command = [*FSDP, script, str(directory.path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def start() -> Iterator[Start]:
    with commands() as begin:
        yield begin


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(one) for one in text.split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_processes_stop_as_one_and_die_with_their_supervisor(
    encoder: Path, tmp_path: Path, start: Start
) -> None:
    long = {"training": {**TRAINING, "epochs": 2000}}
    directory = _make(tmp_path / "run", encoder, processes=2, **long)
    process, again = start("--supervised"), start("--supervised")  # both warm up at once
    order(process, directory)
    wait_for_step(directory, step=3)
    directory.request_stop(StopRequest("drained", is_saving=True))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    outcome = directory.read_outcome()
    assert outcome is not None
    assert outcome.result is Result.STOPPED
    assert outcome.checkpoint is not None
    assert (directory.path / outcome.checkpoint / "rng_state_1.pth").exists()

    directory.outcome.unlink()  # as a worker does
    order(again, directory)
    wait_for_step(directory, step=outcome.step + 3)
    _assert_resumed(directory, step=outcome.step)
    children = _children(again.pid)
    assert len(children) == 2
    assert again.stdin is not None
    again.stdin.close()
    assert again.wait(timeout=10) == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{child}/cmdline").exists() for child in children):
        assert time.monotonic() < deadline, "a process was left"
        time.sleep(0.05)


def test_processes_that_are_asked_to_finish_make_one_model_of_the_steps_taken(
    encoder: Path, tmp_path: Path, start: Start
) -> None:
    directory = _make(tmp_path / "run", encoder, processes=2, training={**TRAINING, "epochs": 2000})
    process = start("--supervised")
    order(process, directory)
    wait_for_step(directory, step=3)
    directory.request_stop(StopRequest("keep", is_saving=False, is_finishing=True))
    process.send_signal(signal.SIGTERM)
    assert process.wait(START_SECONDS) == 0
    outcome = directory.read_outcome()
    assert outcome is not None
    assert (outcome.result, outcome.step >= 3) == (Result.SUCCEEDED, True)
    assert verified_manifest(directory.model)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_one_that_dies_ends_them_all_with_an_error_worth_another_try(
    encoder: Path, tmp_path: Path, start: Start
) -> None:
    long = {"training": {**TRAINING, "epochs": 2000}}
    directory = _make(tmp_path / "run", encoder, processes=2, **long)
    process = start(str(directory.path), "--quiet")
    wait_for_step(directory, step=3)
    os.kill(_children(process.pid)[1], signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL
    outcome = directory.read_outcome()
    assert outcome is not None
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.retryable) == ("process_died", True)


def test_one_process_reads_what_all_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "of_first", lambda value: value)
    asked = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        processes.made_by_first(lambda: asked.append(os.environ["RANK"]))
    assert asked == ["0"]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_a_stop_is_heard_while_torch_is_still_imported(
    encoder: Path, tmp_path: Path, start: Start
) -> None:
    directory = _make(tmp_path / "run", encoder, processes=2)
    process = start(str(directory.path), "--quiet")
    deadline = time.monotonic() + START_SECONDS
    while len(_children(process.pid)) < 2:
        assert time.monotonic() < deadline, "they did not start"
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=START_SECONDS) == 75
    outcome = directory.read_outcome()
    assert outcome is not None
    assert (outcome.result, outcome.step) == (Result.STOPPED, 0)


def _device(kind: Any) -> Device:
    return Device(kind=kind, name=kind, memory_bytes=None, has_fast_bf16=False)


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ("fsdp", "does not share out a model on cpu"),
        ("deepspeed", "'deepspeed' is not installed"),
    ],
)
def test_a_strategy_that_can_not_be_is_refused(
    monkeypatch: pytest.MonkeyPatch, strategy: str, words: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    parallel = {"strategy": strategy}
    training = {"precision": "fp32", "learning_rate": 1e-3}
    spec = parse_spec({**SPEC, "training": training, "resources": {"parallel": parallel}})
    with pytest.raises(InvalidSpec, match=words):
        check_arguments(spec, device=_device("cpu"))


def test_an_optimizer_without_a_state_is_not_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    training = {"precision": "fp32", "learning_rate": 1e-3, "optimizer": "sgd"}
    shared = {"parallel": {"strategy": "fsdp"}}
    spec = parse_spec({**SPEC, "training": training, "resources": shared})
    with pytest.raises(InvalidSpec, match="'sgd' can't be resumed"):
        check_arguments(spec, device=_device("cuda"))


def test_deepspeed_is_told_what_to_share_out_and_where_to_keep_it() -> None:
    parallel = {"strategy": "deepspeed", "zero_stage": 3, "offload": "all"}
    spec = parse_spec({**SPEC, "resources": {"parallel": parallel}})
    zero = deepspeed_settings(spec)["zero_optimization"]
    assert zero["stage"] == 3
    assert zero["offload_optimizer"]["device"] == zero["offload_param"]["device"] == "cpu"


def test_as_many_processes_as_gpus_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = parse_spec({**SPEC, "resources": {"gpus": 4}})
    inputs = Inputs(model=Path("model"), train=InputFile(Path("a.csv"), "a.csv"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(CapacityError, match=r"resources\.gpus is 4, and this run has 2 processes"):
        choose_device(inputs, spec)
