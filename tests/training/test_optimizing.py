"""Every optimizer and scheduler of the spec trains, or says which package it needs."""

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file

from tests.training.tiny import (
    carry_out,
    colour_rows,
    events_of,
    make_run,
    save_encoder,
    stop_after,
)
from trainer_core.run_directory import Result, RunDirectory, file_sha256
from trainer_core.spec.parts import Optimizer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU"),
]

STEPS = 10
PEAK = 1e-3
MODULES = {
    "lion": "bitsandbytes",
    "paged": "bitsandbytes",
    "ademamix": "bitsandbytes",
    "adamw_8bit": "bitsandbytes",
    "schedule_free": "schedulefree",
    "stable": "optimi",
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("models") / "encoder")


def _make(folder: Path, encoder: Path, **training: Any) -> RunDirectory:
    chosen = {"learning_rate": PEAK, "batch_size": 4, "max_steps": 3, "log_steps": 1, **training}
    spec = {
        "task": "text-classification",
        "training": chosen,
        "evaluation": {"strategy": "steps", "steps": 1, "baseline": False},
    }
    return make_run(folder, model=encoder, rows=colour_rows(24), spec=spec)


def _rates(directory: RunDirectory) -> list[float]:
    metrics = [line.data for line in events_of(directory, "metrics")]
    return [one["metrics"]["learning_rate"] for one in metrics if one["split"] == "train"]


@pytest.mark.parametrize("name", get_args(Optimizer))
def test_each_optimizer_moves_the_weights_or_names_its_package(
    encoder: Path, tmp_path: Path, name: str
) -> None:
    directory = _make(tmp_path / "run", encoder, optimizer=name, warmup_ratio=0, max_steps=8)
    outcome = carry_out(directory)
    module = next((own for start, own in MODULES.items() if name.startswith(start)), None)
    if module and importlib.util.find_spec(module) is None:
        assert outcome.error is not None
        assert (outcome.error.code, outcome.error.param) == ("invalid_spec", "/training/optimizer")
        assert "which is not installed" in outcome.error.message
        return
    assert outcome.result is Result.SUCCEEDED, outcome.error
    before = load_file(encoder / "model.safetensors")
    after = load_file(directory.checkpoints / "checkpoint-8" / "model.safetensors")
    moved = [n for n, tensor in before.items() if not torch.equal(tensor, after[f"bert.{n}"])]
    assert len(moved) > len(before) // 2


def _warmed(rate: Callable[[int], float], *, warmup: int) -> list[float]:
    return [PEAK * (step / warmup if step < warmup else rate(step)) for step in range(STEPS)]


def _cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))


# Learning rates of steps 1 to 10 in closed form; 2 steps of warm-up, at whose first it is 0.
@pytest.mark.parametrize(
    ("scheduler", "options", "expected"),
    [
        ("constant", {}, _warmed(lambda _: 1.0, warmup=2)),
        ("linear", {}, _warmed(lambda s: (10 - s) / 8, warmup=2)),
        ("polynomial", {"power": 2, "min_lr_ratio": 0.2},
         _warmed(lambda s: 0.8 * ((10 - s) / 8) ** 2 + 0.2, warmup=2)),
        ("cosine", {"num_cycles": 1.5}, _warmed(lambda s: _cosine(3 * (s - 2) / 8), warmup=2)),
        ("cosine_with_restarts", {"num_cycles": 2},
         _warmed(lambda s: _cosine(2 * (s - 2) / 8 % 1), warmup=2)),
        ("cosine_with_min_lr", {"min_lr_ratio": 0.3},
         _warmed(lambda s: 0.7 * _cosine((s - 2) / 8) + 0.3, warmup=2)),
        ("inverse_sqrt", {"timescale_steps": 4},
         _warmed(lambda s: 1 / math.sqrt((s + 2) / 4), warmup=2)),
        ("warmup_stable_decay", {"decay_ratio": 0.4, "min_lr_ratio": 0.1},
         [PEAK * (0.1 + 0.9 * f) for f in
          (0, 0.5, 1, 1, 1, 1, *(1 - math.sqrt(n / 4) for n in range(4)))]),
    ],
)  # fmt: skip
def test_each_scheduler_follows_its_closed_form(
    encoder: Path, tmp_path: Path, scheduler: str, options: dict[str, Any], expected: list[float]
) -> None:
    directory = _make(
        tmp_path / "run",
        encoder,
        scheduler=scheduler,
        scheduler_options=options,
        max_steps=STEPS,
        warmup_ratio=0.2,
    )
    assert carry_out(directory).result is Result.SUCCEEDED
    assert _rates(directory) == pytest.approx(expected, rel=1e-6)


def test_the_rate_falls_on_a_plateau_and_a_resumed_run_remembers(
    encoder: Path, tmp_path: Path
) -> None:
    training = {
        "scheduler": "reduce_lr_on_plateau",
        "scheduler_options": {"factor": 0.5, "patience": 0},
        "learning_rate": 1e-9,  # at which nothing improves
        "max_steps": 8,
    }
    whole, halved = (_make(tmp_path / name, encoder, **training) for name in ("whole", "halved"))
    assert carry_out(whole).result is Result.SUCCEEDED
    rates = _rates(whole)
    assert rates[0] == pytest.approx(1e-9)
    assert rates[-1] < 1e-9 / 16
    assert stop_after(halved, step=4).result is Result.STOPPED
    assert carry_out(halved).result is Result.SUCCEEDED
    assert _rates(halved) == rates
    hashes = [file_sha256(run.model / "model.safetensors") for run in (whole, halved)]
    assert hashes[0] == hashes[1]


@pytest.mark.skipif(importlib.util.find_spec("schedulefree") is None, reason="not installed")
def test_what_is_saved_is_the_average_also_where_nothing_was_measured(
    encoder: Path, tmp_path: Path
) -> None:
    hashes = []
    for name, splits in (("measured", {"eval": colour_rows(9)}), ("not", {})):
        training = {"optimizer": "schedule_free_adamw", "max_steps": 6, "learning_rate": 1e-2}
        spec = {
            "task": "text-classification",
            "training": training,
            "data": {"eval": None},
            "evaluation": {"strategy": "no"},
        }
        directory = make_run(
            tmp_path / name, model=encoder, rows=colour_rows(24), spec=spec, **splits
        )
        assert carry_out(directory).result is Result.SUCCEEDED
        hashes.append(file_sha256(directory.model / "model.safetensors"))
    assert hashes[0] == hashes[1]
