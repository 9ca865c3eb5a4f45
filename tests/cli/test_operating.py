"""The operator's commands, on the database of a service that asks for keys."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click.testing
import httpx
import pytest

from jobs.backends import Backends
from jobs.settings import Settings
from luthier.cli.main import cli
from luthier.embedded import EmbeddedPostgres, Home
from tests.api.conftest import serve
from tests.test_readme import README, block

pytestmark = pytest.mark.slow


@pytest.fixture
def run(settings: Settings):
    environment = {"LUTHIER_DATABASE_URL": str(settings.database_url)}

    def run(*args: str) -> click.testing.Result:
        return click.testing.CliRunner(env=environment).invoke(cli, args, prog_name="luthier")

    return run


def test_first_key_is_made_rotated_and_revoked(run, settings: Settings) -> None:
    made = run("keys", "add", "me", "--scope", "admin", "--days", "30")
    assert made.exit_code == 0, made.stderr
    secret = made.stdout.strip()
    assert secret.startswith("luthier_")
    assert secret not in made.stderr

    with serve(settings.model_copy(update={"auth": "keys", "port": 0})) as url:

        def status(secret: str) -> int:
            headers = {"Authorization": f"Bearer {secret}"}
            return httpx.get(f"{url}/projects", headers=headers).status_code

        assert status(secret) == 200
        (key,) = json.loads(run("keys", "ls", "--json").stdout)
        assert (key["name"], key["scopes"], key["project"]) == ("me", ["admin"], "default")
        successor = run("keys", "rotate", key["id"], "--overlap-hours", "0").stdout.strip()
        assert status(successor) == 200
        assert run("keys", "revoke", key["id"], "-y").exit_code == 0
        log = httpx.get(f"{url}/audit", headers={"Authorization": f"Bearer {successor}"}).json()

    assert [entry["action"] for entry in log["data"]] == ["key.revoke", "key.rotate", "key.create"]
    assert all(entry["actor"].startswith("operator ") for entry in log["data"])
    shown = run("keys", "ls").stdout
    assert "revoked" in shown
    assert secret not in shown


def test_project_is_made_and_its_quotas_are_set(run, backends: Backends) -> None:
    assert run("projects", "add", "vision", "--max-queued-jobs", "5").exit_code == 0
    assert run("projects", "set", "vision", "--max-queued-jobs", "none").exit_code == 0
    assert run("projects", "set", "vision", "--max-device-hours", "1.5").exit_code == 0
    shown = json.loads(run("projects", "show", "vision", "--json").stdout)

    assert (shown["max_queued_jobs"], shown["max_device_hours"]) == (None, 1.5)
    assert shown["use"]["queued_jobs"] == 0
    assert [p["name"] for p in json.loads(run("projects", "ls", "--json").stdout)] == [
        "default", "vision",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("projects", "add", "Vision!"), 2, "lower-case"),
        (("projects", "add", "default"), 1, "already is a project"),
        (("projects", "set", "vision"), 2, "at least one quota"),
        (("projects", "set", "vision", "--max-queued-jobs", "few"), 2, "'few' is no number"),
        (("projects", "show", "vision"), 1, "no project 'vision'"),
        (("keys", "add", "x", "--scope", "read", "--project", "vision"), 1, "no project 'vision'"),
        (("keys", "add", "x"), 2, "--scope"),
        (("keys", "rotate", "key_x"), 1, "no working key 'key_x'"),
        (("keys", "revoke", "key_x"), 2, "add -y"),
    ],
)
def test_wrong_command_says_what_is_wrong(run, args, code, words) -> None:
    result = run(*args)

    assert result.exit_code == code
    assert words in result.stderr


def test_keys_of_a_home_are_made_while_its_service_does_not_run_and_while_it_does(
    tmp_path,
) -> None:
    home = tmp_path / "home"

    def add(name: str) -> click.testing.Result:
        return click.testing.CliRunner().invoke(
            cli, ["keys", "add", name, "--scope", "admin", "--home", str(home)]
        )

    try:
        first = add("first")
        assert first.exit_code == 0, first.stderr
        with Home(home).lock(), EmbeddedPostgres(home):
            second = add("second")
        assert second.exit_code == 0, second.stderr
    finally:
        EmbeddedPostgres(home).delete_data()


def test_commands_of_the_readme_work_as_written(settings: Settings, tmp_path) -> None:
    ended = subprocess.run(
        ["bash", "-e", "-c", block(README, "<!-- run: keys -->")],
        env={
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "PYTHONPATH": os.pathsep.join(sys.path),
            "HOME": str(tmp_path),
            "LUTHIER_DATABASE_URL": str(settings.database_url),
        },
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    assert "nightly" in ended.stdout
    assert "0 of 2" in ended.stdout
