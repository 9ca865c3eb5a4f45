"""`luthier sweeps`: searches for the best values of a spec's fields."""

from typing import TYPE_CHECKING

import click

from luthier.cli import spec_file
from luthier.cli.command import (
    Command,
    Group,
    confirm,
    json_option,
    open_client,
    timeout_option,
    yes_option,
)
from luthier.cli.outcomes import ExitCode, end
from luthier.cli.output import age, number, print_fields, print_json, print_table, say, suggest

if TYPE_CHECKING:
    from luthier.client import Sweep


@click.group(
    cls=Group,
    examples=[
        "luthier sweeps start sweep.json",
        "luthier sweeps show sweep_01k9…",
        "luthier sweeps wait sweep_01k9…",
    ],
    short_help="Search for the best values of a spec.",
)
def sweeps() -> None:
    """Sweeps: the best values of a spec's fields, searched by ordinary jobs."""


@sweeps.command(
    cls=Command,
    examples=[
        "luthier sweeps start sweep.json",
        "luthier sweeps start sweep.json --set max_trials=20 --set max_parallel=2",
    ],
)
@click.argument("file", metavar="FILE|-")
@click.option(
    "--set", "settings", multiple=True, metavar="PATH=VALUE",
    help="Set a field of the plan; VALUE is JSON, or else text. Repeatable.",
)  # fmt: skip
@json_option
def start(*, file: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Start the search whose plan is in FILE, or on stdin, and print its id."""
    from luthier.client.values import to_json

    plan = spec_file.with_settings(spec_file.read_spec(file), settings)
    with open_client() as client:
        sweep = client.sweeps.create(plan)
    if as_json:
        print_json(to_json(sweep))
        return
    click.echo(sweep.id)
    suggest(f"luthier sweeps show {sweep.id}", f"luthier sweeps wait {sweep.id}")


@sweeps.command(cls=Command, examples=["luthier sweeps ls"])
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many."
)
@json_option
def ls(*, limit: int, as_json: bool) -> None:
    """List sweeps, newest first."""
    from luthier.client.values import to_json

    with open_client() as client:
        found = list(client.sweeps.list(limit=limit))
    if as_json:
        print_json(to_json(found))
        return
    rows = [
        (one.id, one.state, sum(one.num_trials.values()), _best(one), age(one.created_at), one.name)
        for one in found
    ]
    print_table(("ID", "STATE", "TRIALS", "BEST", "AGE", "NAME"), rows)


@sweeps.command(cls=Command, examples=["luthier sweeps show sweep_01k9…"])
@click.argument("sweep_id", metavar="ID")
@json_option
def show(*, sweep_id: str, as_json: bool) -> None:
    """Show a sweep, its trials, and the best model so far."""
    from luthier.client.values import to_json

    with open_client() as client:
        sweep = client.sweeps.get(sweep_id)
    if as_json:
        print_json(to_json(sweep))
        return
    _print(sweep)


@sweeps.command(cls=Command, has_outcome=True, examples=["luthier sweeps wait sweep_01k9…"])
@click.argument("sweep_id", metavar="ID")
@timeout_option
@json_option
def wait(*, sweep_id: str, timeout: float | None, as_json: bool) -> None:
    """Wait silently until a sweep has ended; the exit code is its outcome."""
    from luthier.client.values import to_json

    with open_client() as client:
        sweep = client.sweeps.wait(sweep_id, timeout=timeout)
    if as_json:
        print_json(to_json(sweep))
    else:
        _print(sweep)
    by_state = {"succeeded": ExitCode.OK, "cancelled": ExitCode.CANCELLED}
    end(by_state.get(sweep.state, ExitCode.FAILED))


@sweeps.command(cls=Command, examples=["luthier sweeps cancel sweep_01k9…"])
@click.argument("sweep_id", metavar="ID")
@yes_option
def cancel(*, sweep_id: str, yes: bool) -> None:
    """Cancel a sweep with its jobs."""
    confirm(f"Cancel {sweep_id} and its jobs?", yes=yes)
    with open_client() as client:
        click.echo(f"{sweep_id} {client.sweeps.cancel(sweep_id).state}")


def _print(sweep: "Sweep") -> None:
    print_fields([("id", sweep.id), ("name", sweep.name), ("state", sweep.state)])
    rows = [
        (
            trial.number,
            trial.state,
            None if trial.value is None else number(trial.value),
            ", ".join(f"{path} {number(value)}" for path, value in trial.params.items()),
            trial.job_id,
        )
        for trial in sweep.trials
    ]
    print_table(("TRIAL", "STATE", "VALUE", "VALUES TRIED", "JOB"), rows)
    if sweep.reason:
        say(sweep.reason)
    if sweep.best is not None and sweep.best.job_id:
        suggest(f"luthier download {sweep.best.job_id}")


def _best(sweep: "Sweep") -> str | None:
    return None if sweep.best is None else number(sweep.best.value)
