import json
from pathlib import Path
from typing import Any

import pytest

from trainer_core.errors import InvalidSetting
from trainer_core.rows.files import InputFile
from trainer_core.run_directory import Inputs, RunDirectory, write_json


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    (tmp_path / "train.jsonl").write_text("{}")
    return RunDirectory(tmp_path)


def _write(directory: RunDirectory, **values: Any) -> None:
    rows = {"path": "train.jsonl", "name": "rows.jsonl"}
    write_json(directory.inputs, {"model": "model", "train": rows, **values})


def test_inputs_come_back_as_they_were_written(directory: RunDirectory) -> None:
    rows = InputFile(
        directory.path / "train.jsonl", "rows.jsonl", has_header=False, sha256="0" * 64
    )
    inputs = Inputs(
        model=directory.path / "model",
        train=rows,
        eval=rows,
        model_revision="0123abc",
        num_threads=2,
        device="cuda:1",
    )
    write_json(directory.inputs, inputs.to_dict())
    assert directory.read_inputs() == inputs


def test_relative_paths_start_at_the_run_directory(directory: RunDirectory) -> None:
    _write(directory)
    inputs = directory.read_inputs()
    assert inputs.model == directory.path / "model"
    assert inputs.train.path == directory.path / "train.jsonl"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"divice": "cpu"}, "divice: Unexpected keyword argument"),
        ({"num_threads": "many"}, "num_threads: Input should be a valid integer"),
        ({"num_threads": 0}, "num_threads: Input should be greater than or equal to 1"),
        ({"train": None}, "train: Input should be an object"),
        ({"train": {"path": "train.jsonl", "nam": "x"}}, r"train\.nam: Unexpected"),
        ({"train": {"path": "gone.jsonl", "name": "x"}}, r"'train' \(x\).*no file 'gone\.jsonl'"),
        ({"eval": {"path": ".", "name": "x"}}, r"the rows of 'eval' \(x\)"),
    ],
)
def test_an_input_that_can_not_be_used_is_named(
    directory: RunDirectory, values: dict[str, Any], expected: str
) -> None:
    _write(directory, **values)
    with pytest.raises(InvalidSetting, match=expected):
        directory.read_inputs()


def test_every_wrong_key_is_told_at_once(directory: RunDirectory) -> None:
    directory.inputs.write_text(json.dumps({"modell": "model"}))
    with pytest.raises(InvalidSetting, match=r"model: .*; train: .*; modell: ") as caught:
        directory.read_inputs()
    assert caught.value.hint.startswith("Its keys are model, train, eval, test,")


@pytest.mark.parametrize("content", [b"{'model': 1}", b"", b"\xff\xfe", b"[" * 100_000])
def test_files_that_are_not_json_are_told_by_name(directory: RunDirectory, content: bytes) -> None:
    directory.inputs.write_bytes(content)
    with pytest.raises(InvalidSetting, match=r"inputs\.json"):
        directory.read_inputs()
    directory.spec.write_bytes(content)
    with pytest.raises(InvalidSetting, match=r"spec\.json is not"):
        directory.read_spec()


def test_files_that_are_missing_are_told_by_name(directory: RunDirectory) -> None:
    with pytest.raises(InvalidSetting, match=r"no inputs\.json"):
        directory.read_inputs()
    with pytest.raises(InvalidSetting, match=r"no spec\.json"):
        directory.read_spec()
