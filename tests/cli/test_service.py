"""up and api: what keeps them from starting, and a start."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import click.testing
import httpx
import pytest

from jobs.settings import Settings
from luthier.cli.main import cli
from luthier.embedded import Home
from tests.api.conftest import serve


def invoke(*args: str, **environment: str) -> click.testing.Result:
    return click.testing.CliRunner(env=environment).invoke(cli, args)


@pytest.mark.parametrize("command", ["up", "api", "worker"])
def test_wrong_setting_is_one_line_that_names_the_variable(command: str) -> None:
    result = invoke(command, LUTHIER_LEASE_SECONDS="soon")

    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert "LUTHIER_LEASE_SECONDS" in line


@pytest.mark.parametrize("command", ["up", "api"])
def test_address_beyond_loopback_is_refused_without_keys(command: str) -> None:
    result = invoke(command, LUTHIER_HOST="0.0.0.0", LUTHIER_AUTH="none")

    assert result.exit_code == 1
    assert "loopback" in result.stderr


@pytest.mark.parametrize("command", ["api", "worker"])
def test_part_without_a_database_says_which_variable_is_missing(
    command: str, tmp_path: Path
) -> None:
    result = invoke(command, "--home", str(tmp_path))

    assert result.exit_code == 1
    assert result.stderr.startswith("luthier: LUTHIER_DATABASE_URL is not set.")


@pytest.mark.parametrize("command", ["api", "worker"])
def test_home_that_a_part_makes_is_private(command: str, tmp_path: Path) -> None:
    home = tmp_path / "home"

    invoke(command, "--home", str(home))

    assert home.stat().st_mode & 0o777 == 0o700


def test_database_that_is_not_there_is_one_line_that_names_the_variable(tmp_path: Path) -> None:
    result = invoke(
        "api",
        "--home",
        str(tmp_path),
        LUTHIER_DATABASE_URL="postgresql://u:s3cret@127.0.0.1:1/x",
        LUTHIER_REDIS_URL="redis://127.0.0.1:1/0",
    )

    assert result.exit_code == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("luthier: the database can't be used: ")
    assert "LUTHIER_DATABASE_URL" in last
    assert "s3cret" not in result.stderr
    assert "defect" not in result.stderr


def test_second_up_on_a_home_is_refused_in_one_line(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    with home.lock():
        ended = subprocess.run(
            [sys.executable, "-m", "luthier", "up", "--home", str(home.path)],
            capture_output=True,
            text=True,
            check=False,
        )

    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert str(home.path) in line


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_port_that_is_none_ends_with_2(port: str) -> None:
    assert invoke("up", "--port", port).exit_code == 2


@pytest.mark.slow
def test_api_serves_until_it_is_told_to_end(settings: Settings) -> None:
    with serve(settings.model_copy(update={"port": 0})) as url:
        port = url.rpartition(":")[2]  # free again once this server has ended
    environment = {
        **os.environ,
        "LUTHIER_HOME": str(settings.home),
        "LUTHIER_DATABASE_URL": str(settings.database_url),
        "LUTHIER_REDIS_URL": str(settings.redis_url),
    }
    serving = subprocess.Popen(
        [sys.executable, "-m", "luthier", "api", "--port", port],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert serving.stderr is not None
    lines = []
    for line in serving.stderr:
        lines.append(line)
        if "running on" in line:
            break
    assert serving.poll() is None, "".join(lines)
    assert httpx.get(f"{url}/readyz").status_code == 200

    serving.send_signal(signal.SIGINT)
    _, rest = serving.communicate(timeout=20)

    assert serving.returncode == 0, rest
    assert "Traceback" not in rest
