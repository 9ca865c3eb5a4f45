"""submit, ps, show, wait, cancel and download against a real service."""

import json
import threading
import time
from pathlib import Path

import pytest

import luthier
from jobs.backends import Backends
from jobs.store import listing
from tests.api.conftest import claim, spec_of, succeed
from tests.cli.conftest import Run
from tests.client.conftest import fail, submit
from trainer_core.errors import InvalidRows, LuthierError, RowProblem

pytestmark = pytest.mark.slow

FILES = {"config.json": b"{}", "model.safetensors": b"\0" * 5000}


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "job.json"
    path.write_text(json.dumps(spec_of("ds_unset") | {"data": {}}))
    return path


def test_submit_uploads_rows_sets_fields_and_prints_the_id(
    run: Run, client: luthier.Client, spec: Path, rows: Path
) -> None:
    settings = ("--set", "training.epochs=5", "--set", "labels.team=support")

    result = run("submit", spec, "--train", rows, "--eval", rows, *settings)

    assert result.exit_code == 0, result.stderr
    job = client.jobs.get(result.stdout.strip())
    assert job.spec["training"]["epochs"] == 5
    assert job.labels == {"team": "support"}
    assert job.spec["data"]["train"].startswith("dataset:ds_")
    assert job.spec["data"]["eval"] != job.spec["data"]["train"]
    assert f"next: luthier watch {job.id}" in result.stderr
    assert "40 rows of csv, columns text, label" in result.stderr


def test_submit_reads_stdin_and_prints_json(run: Run, client: luthier.Client, rows: Path) -> None:
    text = json.dumps(spec_of(client.datasets.upload(rows).id))

    result = run("submit", "-", "--json", stdin=text)

    assert json.loads(result.stdout)["state"] == "queued"


def test_refused_spec_names_every_field_and_the_uploads(
    run: Run, client: luthier.Client, spec: Path, rows: Path
) -> None:
    result = run("submit", spec, "--train", rows, "--set", "training.epochs=-1", "--set", "modle=x")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "2 fields are wrong" in result.stderr
    assert "  /training/epochs: should be greater than 0; got -1" in result.stderr
    assert "  /modle: there is no field 'modle' (Did you mean 'model'?)" in result.stderr
    (dataset,) = client.datasets.list()
    assert f"--set data.train=dataset:{dataset.id}" in result.stderr


def test_bad_rows_are_told_by_file_line_and_column(run: Run, spec: Path, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    good = '{"text": "hello", "label": "a"}\n'
    path.write_text(good * 20 + '{"text": "", "label": "b"}\n' + good * 3)

    result = run("submit", spec, "--train", path)

    assert result.exit_code == 1
    assert "1 bad row\n" in result.stderr
    assert "  train.jsonl:21: text: " in result.stderr


@pytest.mark.parametrize(
    "args",
    [
        ("submit", "no-such-file.json"),
        ("submit", "-", "--train", "no-such-file.csv"),
        ("submit", "-", "--timeout", "5"),
        ("ps", "--label", "team"),
        ("ps", "--limit", "0"),
        ("cancel", "job_1"),
        ("pause",),
        ("models", "add", "x"),
        ("models", "add", "x", "--path", "/a", "--hub", "b/c"),
        ("tasks", "--example"),
        ("datasets", "rm", "ds_1"),
    ],
)
def test_command_given_wrongly_ends_with_2(run: Run, args: tuple[str, ...]) -> None:
    result = run(*args, stdin="{}")

    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr


def test_ps_lists_jobs_and_json_lists_them_for_programs(
    run: Run, client: luthier.Client, rows: Path
) -> None:
    first = submit(client, rows, name="first", labels={"team": "a"})
    second = submit(client, rows)

    table = run("ps")
    labelled = run("ps", "--json", "--label", "team=a")
    newest = run("ps", "--limit", "1")

    header, *lines = table.stdout.splitlines()
    assert header.split() == ["ID", "STATE", "TASK", "PROGRESS", "AGE", "NAME"]
    assert [line.split()[0] for line in lines] == [second.id, first.id]
    assert "#1" in lines[1]
    assert [job["id"] for job in json.loads(labelled.stdout)] == [first.id]
    assert "--limit" in newest.stderr
    assert run("ps", "--state", "running", "--json").stdout == "[]\n"


def test_ps_with_a_state_that_is_none_ends_with_1_and_names_them(run: Run) -> None:
    result = run("ps", "--state", "sleeping")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "queued" in result.stderr


def test_show_tells_all_of_a_job(
    run: Run, client: luthier.Client, rows: Path, backends: Backends
) -> None:
    job = submit(client, rows, name="first")
    succeed(backends, claim(backends), FILES)

    people = run("show", job.id)
    program = json.loads(run("show", job.id, "--json").stdout)

    assert "best       step 10: accuracy 0.9\n" in people.stdout
    assert "model.safetensors (4.9 KiB)" in people.stdout
    assert f"next: luthier download {job.id}" in people.stderr
    assert program["artifacts"][0]["path"] == "config.json"
    assert (program["state"], program["name"]) == ("succeeded", "first")


def test_show_of_a_missing_job_ends_with_1(run: Run) -> None:
    result = run("show", "job_0", "--json")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "there is no job 'job_0'" in result.stderr
    assert "hint: " in result.stderr


def test_wait_ends_with_the_outcome(
    run: Run, client: luthier.Client, rows: Path, backends: Backends
) -> None:
    good = submit(client, rows)
    succeed(backends, claim(backends), FILES)
    cancelled = client.jobs.cancel(submit(client, rows).id)
    bad = submit(client, rows)
    row = RowProblem("train.csv", 7, "label", "is empty")
    threading.Timer(0.4, fail, [backends, InvalidRows([row], total=1, hint="Mend it.")]).start()

    outcomes = {job.id: run("wait", job.id).exit_code for job in (good, cancelled)}
    failed = run("wait", bad.id)
    every = run("wait", good.id, cancelled.id, bad.id, "--json")

    assert outcomes == {good.id: 0, cancelled.id: 3}
    assert failed.exit_code == 1
    assert "  train.csv:7: label: is empty" in failed.stderr
    assert every.exit_code == 1
    assert [job["state"] for job in json.loads(every.stdout)] == [
        "succeeded",
        "cancelled",
        "failed",
    ]


def test_wait_ends_with_5_when_its_time_is_over(
    run: Run, client: luthier.Client, rows: Path
) -> None:
    job = submit(client, rows)

    result = run("wait", job.id, "--timeout", "0.2", "--json")

    assert (result.exit_code, result.stdout) == (5, "")
    assert client.jobs.get(job.id).state == "queued"


def test_submit_and_wait_ends_with_the_outcome(
    run: Run, spec: Path, rows: Path, backends: Backends
) -> None:
    def fail_once_submitted() -> None:
        while True:
            with backends.database.transaction() as tx:
                if listing.page(tx, listing.Filter("default"), after=None, limit=1):
                    break
            time.sleep(0.05)
        fail(backends, LuthierError("went wrong.", hint="Mend it."))

    failing = threading.Thread(target=fail_once_submitted)
    failing.start()
    result = run("submit", spec, "--train", rows, "--wait", "--json")
    failing.join()

    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"]["message"] == "went wrong."


def test_cancel_takes_several_jobs(run: Run, client: luthier.Client, rows: Path) -> None:
    job_ids = [submit(client, rows).id for _ in range(2)]

    result = run("cancel", "-y", *job_ids, "--json")

    assert result.exit_code == 0
    assert [job["state"] for job in json.loads(result.stdout)] == ["cancelled", "cancelled"]


def test_pause_and_resume_take_several_jobs(run: Run, client: luthier.Client, rows: Path) -> None:
    job_ids = [submit(client, rows).id for _ in range(2)]

    paused = run("pause", *job_ids)
    listed = run("ps", "--state", "paused", "--json")
    resumed = run("resume", *job_ids, "--json")

    assert (paused.exit_code, paused.stdout.split()[1::2]) == (0, ["paused", "paused"])
    assert f"next: luthier resume {' '.join(job_ids)}" in paused.stderr
    assert {job["id"] for job in json.loads(listed.stdout)} == set(job_ids)
    assert [job["state"] for job in json.loads(resumed.stdout)] == ["queued", "queued"]


def test_cancel_keep_asks_for_the_model(
    run: Run, client: luthier.Client, rows: Path, backends: Backends
) -> None:
    submit(client, rows)
    job = claim(backends)

    result = run("cancel", "-y", "--keep", job.id)

    assert (result.exit_code, result.stdout) == (0, f"{job.id} cancelling\n")
    reason = list(client.jobs.history(job.id))[-1].data["reason"]
    assert reason == "cancelled by request, keeping its model"


def test_pausing_what_has_succeeded_ends_with_1(
    run: Run, client: luthier.Client, rows: Path, backends: Backends
) -> None:
    job = submit(client, rows)
    succeed(backends, claim(backends), {"config.json": b"{}"})

    result = run("pause", job.id)

    assert (result.exit_code, result.stdout) == (1, "")
    assert "has already succeeded" in result.stderr


def test_cancel_without_a_terminal_needs_yes(run: Run, client: luthier.Client, rows: Path) -> None:
    job = submit(client, rows)

    result = run("cancel", job.id)

    assert result.exit_code == 2
    assert "add -y" in result.stderr
    assert client.jobs.get(job.id).state == "queued"


def test_cancelling_what_has_succeeded_ends_with_1(
    run: Run, client: luthier.Client, rows: Path, backends: Backends
) -> None:
    job = submit(client, rows)
    succeed(backends, claim(backends), FILES)

    result = run("cancel", "-y", job.id)

    assert result.exit_code == 1
    assert "has already succeeded" in result.stderr


def test_download_prints_the_folder_and_json_its_files(
    run: Run, client: luthier.Client, rows: Path, backends: Backends, tmp_path: Path
) -> None:
    job = submit(client, rows)
    early = run("download", job.id, "--to", tmp_path / "early")
    succeed(backends, claim(backends), FILES)

    people = run("download", job.id, "--to", tmp_path / "model")
    program = json.loads(run("download", job.id, "--to", tmp_path / "model", "--json").stdout)

    assert early.exit_code == 1
    assert "has no model" in early.stderr
    assert people.stdout == f"{tmp_path / 'model'}\n"
    assert {Path(file["path"]).name: file["size_bytes"] for file in program["files"]} == {
        "config.json": 2,
        "model.safetensors": 5000,
    }
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_folder_that_can_not_be_made_is_named(
    run: Run, client: luthier.Client, rows: Path, backends: Backends, tmp_path: Path
) -> None:
    job = submit(client, rows)
    succeed(backends, claim(backends), FILES)
    blocked = tmp_path / "file"
    blocked.write_text("")

    result = run("download", job.id, "--to", blocked / "below")

    assert result.exit_code == 1
    assert str(blocked) in result.stderr
    assert "Traceback" not in result.stderr
