"""The command `luthier` on a real service; it has no terminal here."""

from collections.abc import Callable

import click.testing
import pytest

from luthier.cli.main import cli
from tests.api.conftest import no_hub
from tests.client.conftest import client, rows, service_settings, url

__all__ = ["client", "no_hub", "rows", "run", "service_settings", "url"]

Run = Callable[..., click.testing.Result]


@pytest.fixture
def run(url: str) -> Run:
    """Run a command line in this process."""
    return command(url)


def command(url: str) -> Run:
    """Return a function that runs command lines against the service at `url`."""

    def run(*args: object, stdin: str | None = None) -> click.testing.Result:
        runner = click.testing.CliRunner(env={"LUTHIER_URL": url})
        return runner.invoke(cli, [str(arg) for arg in args], input=stdin, prog_name="luthier")

    return run
