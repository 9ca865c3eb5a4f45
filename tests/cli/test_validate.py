"""validate, estimate and dataset check: exit codes, what is told, and what is left behind."""

import json
from pathlib import Path

import click.testing
import pytest

from luthier.cli.main import cli
from tests.api.conftest import spec_of
from tests.cli.conftest import Run

pytestmark = pytest.mark.slow


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "job.json"
    path.write_text(json.dumps(spec_of("")))
    return path


def test_a_good_job_is_told_and_its_files_are_not_kept(run: Run, spec: Path, rows: Path) -> None:
    result = run("validate", spec, "--train", rows)

    assert result.exit_code == 0, result.output
    assert "train 36, eval 4" in result.stdout
    assert "a 18, b 18" in result.stdout
    assert "not known: tokens" in result.stderr  # of a model of the Hub
    assert f"next: luthier submit {spec}" in result.stderr
    assert run("datasets", "ls", "--json").stdout == "[]\n"
    assert run("ps", "--json").stdout == "[]\n"


def test_everything_wrong_is_told_and_the_exit_code_is_1(
    run: Run, spec: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text(
        "text,label\n" + "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(12)) + ",a\n"
    )

    result = run("validate", spec, "--train", bad, "--set", "training.epochs=-1")

    assert result.exit_code == 1
    assert "/training/epochs" in result.stderr
    assert "bad.csv:14: text: is empty" in result.stderr


def test_json_is_the_whole_answer(run: Run, spec: Path, rows: Path) -> None:
    validated = json.loads(run("validate", spec, "--train", rows, "--json").stdout)
    estimated = json.loads(run("estimate", spec, "--train", rows, "--json").stdout)

    assert validated == estimated
    assert validated["is_valid"]
    assert validated["rows"]["num_rows"]["train"] == 36


def offline(*args: object) -> click.testing.Result:
    runner = click.testing.CliRunner(env={"LUTHIER_URL": "http://127.0.0.1:9"})
    return runner.invoke(cli, [str(arg) for arg in args], prog_name="luthier")


def test_a_file_is_checked_without_a_service(rows: Path) -> None:
    result = offline("dataset", "check", rows, "--task", "text-classification")

    assert result.exit_code == 0, result.output
    assert "train 36, eval 4, test 0" in result.stdout
    assert "40 rows can be trained on" in result.stderr


def test_what_is_wrong_with_a_file_is_told_without_a_service(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "label": "x"}\n{"text": "", "label": "y"}\n')

    result = offline("datasets", "check", path, "--task", "text-classification", "--json")

    assert result.exit_code == 1
    codes = [error["code"] for error in json.loads(result.stdout)["errors"]]
    assert codes[0] == "invalid_rows"
    assert "too_few_rows" in codes


def test_a_column_that_is_not_there_is_told_with_those_that_are(rows: Path) -> None:
    task = ("--task", "text-classification", "--column", "label=intent")
    result = offline("datasets", "check", rows, *task)

    assert result.exit_code == 1
    assert "no column 'intent'" in result.stderr
    assert "text, label" in result.stderr


def test_a_task_that_is_not_known_is_refused(rows: Path) -> None:
    result = offline("datasets", "check", rows, "--task", "no-such")

    assert result.exit_code == 1
    assert "text-classification" in result.stderr
