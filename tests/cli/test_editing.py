"""clone, retry, edit, delete, diff, open and the log of what failed, against a real service."""

import json
from pathlib import Path

import httpx
import pytest

import luthier
from jobs.backends import Backends
from jobs.settings import Settings
from tests.api.conftest import claim, say, serve, succeed
from tests.cli.conftest import Run
from tests.client.conftest import fail, submit
from trainer_core.errors import LuthierError

pytestmark = pytest.mark.slow

FILES = {"config.json": b"{}"}


def test_clone_sets_fields_takes_fields_away_and_prints_the_new_id(
    run: Run, client: luthier.Client, rows: Path
) -> None:
    job = submit(client, rows, name="first", training={"epochs": 2, "seed": 7})

    result = run("clone", job.id, "--set", "training.epochs=5", "--set", "training.seed=null")

    assert result.exit_code == 0, result.stderr
    made = client.jobs.get(result.stdout.strip())
    assert (made.parent_id, made.name) == (job.id, "first")
    assert made.spec["training"]["epochs"] == 5
    assert made.spec["training"]["seed"] != 7
    assert f"next: luthier watch {made.id}" in result.stderr


def test_retry_makes_a_failed_job_again_and_refuses_one_that_waits(
    run: Run, client: luthier.Client, rows: Path, backends: Backends
) -> None:
    job = submit(client, rows)
    early = run("retry", job.id)
    fail(backends, LuthierError("went wrong."))

    result = run("retry", job.id, "--json")

    assert (early.exit_code, early.stdout) == (1, "")
    made = json.loads(result.stdout)
    assert (made["parent_id"], made["state"]) == (job.id, "queued")


def test_edit_changes_what_is_named_and_nothing_else(
    run: Run, client: luthier.Client, rows: Path
) -> None:
    job = submit(client, rows, name="first", labels={"team": "a", "draft": "yes"})
    labels = ("--label", "team=b", "--label", "draft=")

    changed = run("edit", job.id, "--notes", "for Friday", *labels, "--priority", "10", "--json")
    unnamed = run("edit", job.id, "--name", "")

    told = json.loads(changed.stdout)
    assert (told["notes"], told["labels"], told["priority"]) == ("for Friday", {"team": "b"}, 10)
    assert told["name"] == "first"
    assert (unnamed.exit_code, unnamed.stdout) == (0, "")
    assert client.jobs.get(job.id).name is None


def test_delete_asks_and_takes_jobs_that_have_ended(
    run: Run, client: luthier.Client, rows: Path
) -> None:
    waiting, ended = submit(client, rows), submit(client, rows)
    client.jobs.cancel(ended.id)

    assert run("delete", ended.id).exit_code == 2
    assert run("delete", "-y", waiting.id).exit_code == 1
    assert run("delete", "-y", ended.id).exit_code == 0
    assert [job.id for job in client.jobs.list()] == [waiting.id]


def test_diff_shows_only_what_differs_with_the_figures_of_both(
    run: Run, client: luthier.Client, rows: Path, backends: Backends
) -> None:
    first = submit(client, rows, training={"epochs": 2, "seed": 1})
    second = first.clone({"training": {"epochs": 5}, "labels": {"team": "a"}})
    succeed(backends, claim(backends), FILES)

    table = run("diff", first.id, second.id)
    program = json.loads(run("diff", first.id, second.id, "--json").stdout)

    lines = {line.split()[0]: line.split()[1:] for line in table.stdout.splitlines()}
    assert lines == {
        "FIELD": [first.id, second.id],
        "state": ["succeeded", "queued"],
        "training.epochs": ["2", "5"],
        "labels": ["{}", "-"],
        "labels.team": ["-", "a"],
        "best": ["accuracy", "0.9", "-"],
    }
    assert program["spec"]["training.epochs"] == [2, 5]
    assert program["metrics"] == {"best accuracy": [0.9, None]}


def test_diff_of_twins_says_so(run: Run, client: luthier.Client, rows: Path) -> None:
    job = submit(client, rows)

    result = run("diff", job.id, job.clone().id)

    assert result.exit_code == 0
    assert "the same" in result.stderr


def test_open_prints_the_url_where_there_is_no_browser(
    run: Run, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr("luthier.cli.browsing.sys.platform", "linux")

    page, job = run("open"), run("open", "job_1")

    assert (page.exit_code, page.stdout) == (0, f"{url}/docs\n")
    assert job.stdout == f"{url}/jobs/job_1\n"
    assert "no browser here" in job.stderr


def test_open_leads_to_what_a_browser_without_the_key_can_show(
    run: Run, service_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(service_settings.model_copy(update={"auth": "keys"})) as url:
        monkeypatch.setenv("LUTHIER_URL", url)
        monkeypatch.setenv("LUTHIER_API_KEY", "luthier_key")
        result = run("open", "job_1", "--print")

        page, _, form = result.stdout.strip().partition("#")
        assert httpx.get(f"{url}/jobs/job_1").status_code == 401
        assert httpx.get(page).status_code == 200
        described = httpx.get(f"{url}/openapi.json").json()["paths"]["/jobs/{job_id}"]["get"]
        assert form == f"/{described['tags'][0]}/{described['operationId']}"
        assert "under Authorize" in result.stderr


def test_log_of_what_failed_leaves_out_the_attempt_that_did_not(
    run: Run, client: luthier.Client, rows: Path, backends: Backends
) -> None:
    good = submit(client, rows)
    job = claim(backends)
    say(backends, job.id, "all is well")
    succeed(backends, job, FILES)
    bad = submit(client, rows)
    fail(backends, LuthierError("went wrong.", hint="Mend it."))

    assert run("logs", good.id, "--failed").stdout == ""
    assert run("logs", bad.id, "--failed").exit_code == 0
    assert run("logs", bad.id, "--failed", "-f").exit_code == 2


def test_jobs_are_listed_by_several_states_and_by_parent(
    run: Run, client: luthier.Client, rows: Path
) -> None:
    first = submit(client, rows)
    second = first.clone()
    client.jobs.pause(first.id)
    client.jobs.cancel(second.id)

    def ids(*options: str) -> set[str]:
        return {job["id"] for job in json.loads(run("ps", "--json", *options).stdout)}

    assert ids("--state", "paused", "--state", "cancelled") == {first.id, second.id}
    assert ids("--parent", first.id) == {second.id}
    assert ids("--model", "hub:org/other") == set()


@pytest.mark.parametrize(
    "args",
    [
        ("clone", "job_1", "--timeout", "5"),
        ("retry", "job_1", "--follow", "--wait", "--timeout", "5"),
        ("edit", "job_1"),
        ("edit", "job_1", "--label", "team"),
        ("edit", "job_1", "--priority", "1000"),
        ("delete", "job_1"),
        ("completion", "tcsh"),
    ],
)
def test_command_given_wrongly_ends_with_2(run: Run, args: tuple[str, ...]) -> None:
    result = run(*args)

    assert (result.exit_code, result.stdout) == (2, "")
