"""datasets, models and tasks against a real service."""

import json
from pathlib import Path

import pytest

from jobs.settings import Settings
from tests.cli.conftest import Run

pytestmark = pytest.mark.slow


def test_added_data_set_is_listed_previewed_and_removed(run: Run, rows: Path) -> None:
    added = run("datasets", "add", rows)
    dataset_id = added.stdout.strip()

    listed = run("datasets", "ls")
    previewed = run("datasets", "preview", dataset_id)
    removed = run("datasets", "rm", "-y", dataset_id)

    assert added.exit_code == listed.exit_code == previewed.exit_code == removed.exit_code == 0
    assert "40 rows of csv" in added.stderr
    assert f"--set data.train=dataset:{dataset_id}" in added.stderr
    assert listed.stdout.splitlines()[1].split()[:2] == [dataset_id, "40"]
    header, first, *_ = previewed.stdout.splitlines()
    assert (header.split(), first.split()) == (["text", "label"], ["message", "0", "a"])
    assert removed.stdout == ""
    assert run("datasets", "ls", "--json").stdout == "[]\n"


def test_bad_rows_of_an_upload_are_told_and_the_file_is_kept(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n{"text": \n{"text": "c"}\n')

    result = run("datasets", "add", path)

    assert result.exit_code == 0
    assert "  1 bad row:" in result.stderr
    assert "  rows.jsonl:2: " in result.stderr
    assert result.stdout.startswith("ds_")


def test_json_of_data_set_commands_is_all_that_is_on_stdout(run: Run, rows: Path) -> None:
    (dataset,) = json.loads(run("datasets", "add", rows, "--json").stdout)

    preview = json.loads(run("datasets", "preview", dataset["id"], "--json").stdout)
    listed = json.loads(run("datasets", "ls", "--json").stdout)

    assert preview["rows"][0] == {"text": "message 0", "label": "a"}
    assert [found["id"] for found in listed] == [dataset["id"]]


def test_file_without_a_header_has_one_row_more(run: Run, rows: Path) -> None:
    (dataset,) = json.loads(run("datasets", "add", "--no-header", rows, "--json").stdout)

    assert (dataset["num_rows"], dataset["has_header"]) == (41, False)


def test_empty_file_is_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "empty.csv"
    path.touch()

    result = run("datasets", "add", path, "--json")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "empty.csv" in result.stderr


def test_model_is_added_from_the_hub_and_from_a_folder(run: Run, settings: Settings) -> None:
    folder = settings.model_roots[0] / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").touch()

    by_hub = run("models", "add", "minilm", "--hub", "org/minilm", "--revision", "main")
    by_path = run("models", "add", "tiny", "--path", folder, "--json")

    assert by_hub.stdout == "model:minilm\n"
    assert json.loads(by_path.stdout)["path"] == str(folder)
    assert [model["name"] for model in json.loads(run("models", "ls", "--json").stdout)] == [
        "minilm",
        "tiny",
    ]
    assert "hub:org/minilm" in run("models", "ls").stdout


def test_model_outside_the_roots_is_refused(run: Run, tmp_path: Path) -> None:
    result = run("models", "add", "tiny", "--path", tmp_path)

    assert (result.exit_code, result.stdout) == (1, "")
    assert "/path: " in result.stderr


def test_name_that_is_taken_is_refused(run: Run) -> None:
    run("models", "add", "minilm", "--hub", "org/minilm")

    result = run("models", "add", "minilm", "--hub", "org/other")

    assert result.exit_code == 1
    assert "there already is a model 'minilm'" in result.stderr


def test_tasks_are_listed_and_shown(run: Run) -> None:
    listed = json.loads(run("tasks", "--json").stdout)
    shown = run("tasks", "text-classification")
    example = json.loads(run("tasks", "text-classification", "--example").stdout)
    whole = json.loads(run("tasks", "text-classification", "--json").stdout)

    assert {"causal-lm", "text-classification"} <= {task["task"] for task in listed}
    assert "metrics: accuracy" in shown.stdout
    assert example["task"] == "text-classification"
    assert whole["example"] == example
    assert "properties" in whole["schema"]


def test_misspelt_task_is_answered_with_the_right_one(run: Run) -> None:
    result = run("tasks", "text-clasification")

    assert result.exit_code == 1
    assert "Did you mean 'text-classification'?" in result.stderr
