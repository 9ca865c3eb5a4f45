"""`luthier up`, `luthier api`, `luthier worker`: the service itself, whole or in parts."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from luthier.cli.command import Command
from luthier.cli.outcomes import ExitCode, end
from luthier.cli.output import say
from trainer_core.errors import LuthierError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from jobs.settings import Settings

_port_option = click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="N",
    help="Port of the API; 0 takes a free one. Default LUTHIER_PORT, else 8750.",
)
_home_option = click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of everything the service keeps. Default LUTHIER_HOME, else ~/.luthier.",
)


@click.command(
    cls=Command,
    examples=["luthier up", "luthier up --port 9000 --home /srv/luthier"],
    short_help="Run the whole service on this machine.",
)
@_port_option
@_home_option
def up(port: int | None, home: Path | None) -> None:
    """Run the whole service on this machine: database, queue, API and a worker.

    Nothing has to be installed or set up before. Ctrl-C stops everything.
    """

    def run(settings: "Settings") -> int:
        from luthier.up import run as run_all

        return run_all(settings)

    _serve(run, port=port, home=home)


@click.command(
    cls=Command,
    examples=["luthier api", "luthier api --port 9000"],
    short_help="Run the API server alone.",
)
@_port_option
@_home_option
def api(port: int | None, home: Path | None) -> None:
    """Run the API server alone, where database, queue and workers are elsewhere.

    Set LUTHIER_DATABASE_URL, LUTHIER_REDIS_URL and LUTHIER_STORAGE_URL, the same for every part.
    The database's tables are brought up to date first.
    """
    _serve(_run_api, port=port, home=home)


@click.command(
    cls=Command,
    examples=["luthier worker", "LUTHIER_DEVICES=cuda:0,cuda:1 luthier worker"],
    short_help="Run a worker alone.",
)
@_home_option
def worker(home: Path | None) -> None:
    """Run a worker alone: it trains the jobs that wait in the queue.

    Set LUTHIER_DATABASE_URL, LUTHIER_REDIS_URL and LUTHIER_STORAGE_URL, the same for every part.
    On SIGTERM it saves what it trains, hands the job back and ends.
    """

    def run(settings: "Settings") -> int:
        from worker.main import run as run_worker

        return run_worker(settings)

    _serve(run, home=home)


def _serve(run: "Callable[[Settings], int]", **given: object) -> NoReturn:
    """Run a part of the service to its end; what keeps it from starting is one line."""
    from jobs.settings import load_settings
    from luthier.embedded.home import Home

    try:
        settings = load_settings(**{name: v for name, v in given.items() if v is not None})
        Home(settings.home).create()  # private, whichever part of the service comes first
        code = run(settings)
    except LuthierError as error:
        say(f"luthier: {' '.join(str(error).split())}")
        end(ExitCode.FAILED)
    raise click.exceptions.Exit(code)


def _run_api(settings: "Settings") -> int:
    from api.serving import serve
    from jobs.backends import connect
    from luthier.up import bring_up_to_date

    _guard_log()
    connect(settings).engine.dispose()  # raises what is wrong with the settings
    assert settings.database_url is not None, "connect lets no missing URL pass"
    bring_up_to_date(settings.database_url)
    return ExitCode.OK if serve(partial(_application, settings), settings) else ExitCode.FAILED


def _application(settings: "Settings") -> "FastAPI":
    """Return what a process of the API serves; `partial`s of it can be pickled."""
    from api.app import create_app

    _guard_log()
    return create_app(settings)


def _guard_log() -> None:
    import logging

    from trainer_core.redaction import guard_process

    guard_process()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
