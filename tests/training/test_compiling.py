"""`training.compile`: the same training through torch.compile."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.training.tiny import COLOURS, WORDS, carry_out, events_of, make_run, save_encoder
from trainer_core.run_directory import Result

pytestmark = pytest.mark.slow

NUM_STEPS = 4


# Of one length: each length more is compiled anew.
ROWS = [{"text": f"{colour} is {how}", "label": colour} for colour in COLOURS for how in WORDS]


def _losses(folder: Path, encoder: Path, **training: Any) -> list[float]:
    chosen = {"learning_rate": 1e-2, "batch_size": 8, "max_steps": NUM_STEPS, "log_steps": 1}
    spec = {
        "task": "text-classification",
        "training": {**chosen, **training},
        "data": {"eval": None},
    }
    directory = make_run(folder, model=encoder, rows=ROWS[:32], spec=spec)
    outcome = carry_out(directory)
    assert outcome.result is Result.SUCCEEDED, outcome.error
    metrics = [line.data for line in events_of(directory, "metrics")]
    return [one["metrics"]["loss"] for one in metrics if one["split"] == "train"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_model_takes_the_same_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no processes that import torch
    encoder = save_encoder(tmp_path / "encoder", dropout=0.0)
    eager = _losses(tmp_path / "eager", encoder)
    compiled = _losses(tmp_path / "compiled", encoder, compile=True)
    assert len(eager) == NUM_STEPS
    assert compiled == pytest.approx(eager, rel=1e-4)


def test_a_worker_without_a_compiler_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    encoder = save_encoder(tmp_path / "encoder")
    spec = {"task": "text-classification", "training": {"compile": True, "max_steps": 1}}
    outcome = carry_out(make_run(tmp_path / "run", model=encoder, rows=ROWS, spec=spec))
    assert outcome.error is not None
    assert outcome.error.code == "invalid_spec"
    assert outcome.error.param == "/training/compile"
    assert "no-such-compiler" in outcome.error.message
