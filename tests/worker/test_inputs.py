"""What a worker gives a training process to start from."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trainer_core.run_directory import RunDirectory, write_json
from trainer_core.spec import Reference, Scheme
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


def test_a_branch_of_the_hub_that_moves_between_attempts_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = iter(["a" * 40, "b" * 40])

    def fetch(_name: str, *, revision: str | None, cache: Path, **_: Any) -> Path:
        return cache / (revision or next(commits))  # of the main branch, which moves

    monkeypatch.setattr(inputs, "fetch", fetch)  # the outside network
    needs = inputs.Needs({}, hub=Reference(Scheme.HUB, "owner/name", None))
    backends: Any = SimpleNamespace(settings=SimpleNamespace(home=tmp_path))
    job: Any = SimpleNamespace(project="default")
    found = []
    for number in (1, 2):
        run = RunDirectory(tmp_path / f"attempt-{number}")
        run.path.mkdir()
        found.append(inputs._model_folder(backends, job, needs, run, lambda: None).name)
        write_json(run.inputs, {"model_revision": found[-1]})
    assert found == ["a" * 40, "a" * 40]
