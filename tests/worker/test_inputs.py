"""What a worker gives a training process to start from."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trainer_core.run_directory import RunDirectory
from worker import inputs


@pytest.mark.parametrize(
    ("device", "gpus", "expected"),
    [
        (None, 4, 4),
        ("cuda", 4, 4),
        ("cuda", "auto", 1),
        ("cuda", 0, 1),
        ("cuda:0", 4, 1),
        ("cpu", 64, 1),
        ("mps", 64, 1),
    ],
)
def test_only_a_worker_of_several_gpus_asks_for_several_processes(
    device: str | None, gpus: Any, expected: int
) -> None:
    job: Any = SimpleNamespace(spec={"resources": {"gpus": gpus}})
    assert inputs._num_processes(job, device) == expected


def test_an_attempt_goes_on_with_what_evaluations_found_before(tmp_path: Path) -> None:
    earlier = RunDirectory(tmp_path / "attempt-1")
    for folder in (earlier.checkpoints, earlier.evaluations):
        folder.mkdir(parents=True)
    (earlier.evaluations / "eval-5.json").write_text("{}")
    run = RunDirectory(tmp_path / "attempt-2")
    run.path.mkdir()
    inputs._take_over(run, before=2)
    assert run.checkpoints.is_dir()
    assert (run.evaluations / "eval-5.json").read_text() == "{}"
