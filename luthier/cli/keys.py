"""`luthier keys`: API keys, made and revoked on the database itself."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from luthier.cli.command import Command, Group, confirm, json_option, yes_option
from luthier.cli.operating import home_option, project_option, to_json, transaction
from luthier.cli.output import age, print_json, print_table, say, suggest

_SCOPES = ("read", "submit", "admin")


@click.group(
    cls=Group,
    examples=[
        "luthier keys add ci --scope submit",
        "LUTHIER_API_KEY=$(luthier keys add me --scope admin) luthier ps",
        "luthier keys ls",
    ],
    short_help="Make and revoke API keys (operator).",
)
def keys() -> None:
    """API keys. For the operator: these commands work on the database, and need no key.

    The database is that of LUTHIER_DATABASE_URL, else the one in the home.
    """


@keys.command(cls=Command, examples=["luthier keys add ci --scope submit --project vision"])
@click.argument("name", metavar="NAME")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(_SCOPES),
    multiple=True,
    required=True,
    help="What it may do: read, submit (which includes it) or admin (which includes both).",
)
@click.option("--days", type=click.FloatRange(min=0, min_open=True), help="Days that it works.")
@click.option(
    "--requests-per-second",
    type=click.FloatRange(min=0, min_open=True),
    help="Its own limit. Default LUTHIER_RATE_LIMIT.",
)
@project_option
@home_option
@json_option
def add(
    *,
    name: str,
    scopes: tuple[str, ...],
    days: float | None,
    requests_per_second: float | None,
    project: str,
    home: Path | None,
    as_json: bool,
) -> None:
    """Make a key. Its secret goes to stdout, and is told this once."""
    from jobs.store import audit
    from jobs.store import keys as store
    from luthier.operating import Operator

    with transaction(home) as tx:
        issued = store.issue(
            tx,
            project=project,
            name=name,
            scopes=scopes,
            expires_at=None if days is None else datetime.now(UTC) + timedelta(days=days),
            requests_per_second=requests_per_second,
        )
        audit.note(
            tx,
            caller=Operator(),
            action="key.create",
            target=issued.key.id,
            project=project,
            name=name,
            scopes=list(scopes),
        )
    if as_json:
        print_json({**to_json(issued.key), "secret": issued.secret})
        return
    say(f"{issued.key.id} of project {project}: {', '.join(scopes)}")
    click.echo(issued.secret)
    suggest("export LUTHIER_API_KEY=…")


@keys.command(cls=Command, examples=["luthier keys ls", "luthier keys ls --project vision"])
@click.option("--project", metavar="NAME", help="Of this project alone.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many."
)
@home_option
@json_option
def ls(*, project: str | None, limit: int, home: Path | None, as_json: bool) -> None:
    """List keys, newest first; those that work no more are among them."""
    from jobs.store import keys as store

    with transaction(home) as tx:
        found = store.page(tx, project=project, after=None, limit=limit)
    if as_json:
        print_json([to_json(key) for key in found])
        return
    now = datetime.now(UTC)
    rows = [
        (
            key.id,
            key.project,
            key.prefix + "…",
            ",".join(key.scopes),
            "revoked"
            if key.revoked_at
            else "expired"
            if key.expires_at and key.expires_at <= now
            else "works",
            age(key.last_used_at) if key.last_used_at else "never",
            key.name,
        )
        for key in found
    ]
    print_table(("ID", "PROJECT", "KEY", "SCOPES", "STATE", "USED", "NAME"), rows)


@keys.command(cls=Command, examples=["luthier keys rotate key_01k9… --overlap-hours 1"])
@click.argument("which", metavar="ID")
@click.option(
    "--overlap-hours",
    type=click.FloatRange(0, 2160),
    default=24.0,
    show_default=True,
    help="For how long the old one works on.",
)
@home_option
@json_option
def rotate(*, which: str, overlap_hours: float, home: Path | None, as_json: bool) -> None:
    """Make a key like another one, which works on for a while. The new secret goes to stdout."""
    from jobs.store import audit
    from jobs.store import keys as store
    from luthier.operating import Operator

    with transaction(home) as tx:
        issued = store.rotate(tx, which, project=None, overlap_seconds=overlap_hours * 3600)
        audit.note(
            tx,
            caller=Operator(),
            action="key.rotate",
            target=which,
            project=issued.key.project,
            new_key_id=issued.key.id,
        )
    if as_json:
        print_json({**to_json(issued.key), "secret": issued.secret})
        return
    say(f"{issued.key.id} takes the place of {which}, which works {overlap_hours:g} hours more.")
    click.echo(issued.secret)


@keys.command(cls=Command, examples=["luthier keys revoke key_01k9… -y"])
@click.argument("which", metavar="ID...", nargs=-1, required=True)
@home_option
@yes_option
def revoke(*, which: tuple[str, ...], home: Path | None, yes: bool) -> None:
    """Revoke keys: they work for two seconds more at most."""
    from jobs.store import audit
    from jobs.store import keys as store
    from luthier.operating import Operator

    confirm(f"Revoke {', '.join(which)}?", yes=yes)
    with transaction(home) as tx:
        for key_id in which:
            revoked = store.revoke(tx, key_id, project=None)
            audit.note(
                tx,
                caller=Operator(),
                action="key.revoke",
                target=key_id,
                project=revoked.project,
            )
    say(f"revoked: {', '.join(which)}.")
