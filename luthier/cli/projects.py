"""`luthier projects`: tenants and their quotas, on the database itself."""

from pathlib import Path
from typing import Any

import click

from luthier.cli.command import Command, Group, json_option
from luthier.cli.operating import (
    given_quotas,
    home_option,
    quota_options,
    to_json,
    transaction,
)
from luthier.cli.output import age, print_fields, print_json, print_table, say, suggest


@click.group(
    cls=Group,
    examples=[
        "luthier projects add vision --max-running-jobs 2",
        "luthier projects set vision --max-device-hours 500",
        "luthier projects show vision",
    ],
    short_help="Make projects and set their quotas (operator).",
)
def projects() -> None:
    """Projects. For the operator: these commands work on the database, and need no key.

    What belongs to one project can't be seen from another. The database is that of
    LUTHIER_DATABASE_URL, else the one in the home.
    """


@projects.command(cls=Command, examples=["luthier projects add vision --max-queued-jobs 100"])
@click.argument("name", metavar="NAME")
@quota_options
@home_option
def add(*, name: str, home: Path | None, **quotas: Any) -> None:
    """Make a project."""
    import re

    from jobs.store import audit
    from jobs.store import projects as store
    from luthier.operating import Operator

    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name):
        raise click.UsageError("A project's name is of lower-case letters, digits and dashes.")
    given: dict[str, Any] = given_quotas(quotas)
    with transaction(home) as tx:
        store.create(tx, name, quotas=given)
        audit.note(tx, caller=Operator(), action="project.create", target=name, **given)
    click.echo(name)
    suggest(f"luthier keys add NAME --project {name} --scope submit")


@projects.command(
    "set", cls=Command, examples=["luthier projects set vision --max-queued-jobs none"]
)
@click.argument("name", metavar="NAME")
@quota_options
@home_option
def set_(*, name: str, home: Path | None, **quotas: Any) -> None:
    """Set quotas of a project; `none` takes one away."""
    from jobs.store import audit
    from jobs.store import projects as store
    from luthier.operating import Operator

    given: dict[str, Any] = given_quotas(quotas)
    if not given:
        raise click.UsageError("Give at least one quota.")
    with transaction(home) as tx:
        store.change(tx, name, quotas=given)
        audit.note(tx, caller=Operator(), action="project.change", target=name, **given)
    say(f"{name}: {', '.join(f'{quota} {value}' for quota, value in given.items())}")


@projects.command(cls=Command, examples=["luthier projects ls"])
@home_option
@json_option
def ls(*, home: Path | None, as_json: bool) -> None:
    """List the projects and their quotas."""
    from jobs.store import projects as store

    with transaction(home) as tx:
        found = store.page(tx, after=None, limit=10_000)
    if as_json:
        print_json([to_json(project) for project in found])
        return
    rows = [
        (
            one.name,
            one.max_queued_jobs,
            one.max_running_jobs,
            one.max_device_hours,
            one.max_storage_bytes,
            age(one.created_at),
        )
        for one in found
    ]
    print_table(("NAME", "QUEUED", "RUNNING", "DEVICE-HOURS", "BYTES", "AGE"), rows)


@projects.command(cls=Command, examples=["luthier projects show vision"])
@click.argument("name", metavar="NAME")
@home_option
@json_option
def show(*, name: str, home: Path | None, as_json: bool) -> None:
    """Show what a project may use, and what it uses."""
    from jobs.store import projects as store
    from jobs.store import quotas

    with transaction(home) as tx:
        project, use = store.get(tx, name), quotas.use_of(tx, name)
    if as_json:
        print_json({**to_json(project), "use": to_json(use)})
        return

    def of(used: object, limit: object) -> str:
        return f"{used} of {'any' if limit is None else limit}"

    print_fields(
        [
            ("name", project.name),
            ("queued jobs", of(use.queued_jobs, project.max_queued_jobs)),
            ("running jobs", of(use.running_jobs, project.max_running_jobs)),
            ("device-hours", of(round(use.device_hours, 2), project.max_device_hours)),
            ("storage bytes", of(use.storage_bytes, project.max_storage_bytes)),
        ]
    )
