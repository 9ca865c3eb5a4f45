"""`luthier webhooks`: where events of jobs are sent."""

import click

from luthier.cli.command import Command, Group, confirm, json_option, open_client, yes_option
from luthier.cli.outcomes import ExitCode, end
from luthier.cli.output import age, clean, print_json, print_table, say, suggest

_TYPES = (
    *("job.queued", "job.started", "job.paused", "job.succeeded", "job.failed", "job.cancelled"),
    *(f"fine_tuning.job.{end}" for end in ("succeeded", "failed", "cancelled")),
)
_limit_option = click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many."
)


@click.group(
    cls=Group,
    examples=[
        "luthier webhooks add https://example.org/hooks",
        "luthier webhooks test wh_01k9…",
        "luthier webhooks deliveries wh_01k9… --state failed",
    ],
    short_help="Have events of jobs sent to a URL.",
)
def webhooks() -> None:
    """Webhooks: events of jobs, sent to a URL and signed as Standard Webhooks has it."""


@webhooks.command(
    cls=Command,
    examples=[
        "luthier webhooks add https://example.org/hooks > secret.txt",
        "luthier webhooks add https://example.org/hooks --event job.failed --name pager",
    ],
)
@click.argument("url", metavar="URL")
@click.option(
    "--event",
    "event_types",
    type=click.Choice(_TYPES),
    multiple=True,
    metavar="TYPE",
    help="Of what to tell. Repeatable. Default: every way in which a job ends.",
)
@click.option("--name", metavar="TEXT", help="Name for people.")
@json_option
def add(*, url: str, event_types: tuple[str, ...], name: str | None, as_json: bool) -> None:
    """Have events sent to a URL. The signing secret goes to stdout, and is told this once."""
    from luthier.client.values import to_json

    with open_client() as client:
        made = client.webhooks.create(url, event_types=event_types or None, name=name)
    if as_json:
        print_json(to_json(made))
        return
    say(f"{made.id} tells {clean(made.url)} of {', '.join(made.event_types)}.")
    click.echo(made.secret)
    suggest(f"luthier webhooks test {made.id}")


@webhooks.command(cls=Command, examples=["luthier webhooks ls"])
@_limit_option
@json_option
def ls(*, limit: int, as_json: bool) -> None:
    """List webhooks, newest first."""
    from luthier.client.values import to_json

    with open_client() as client:
        found = list(client.webhooks.list(limit=limit))
    if as_json:
        print_json(to_json(found))
        return
    rows = [
        (w.id, "on" if w.enabled else w.disabled_reason or "off", age(w.created_at), w.name, w.url)
        for w in found
    ]
    print_table(("ID", "STATE", "AGE", "NAME", "URL"), rows)
    if not found:
        suggest("luthier webhooks add URL")


@webhooks.command(
    cls=Command,
    examples=[
        "luthier webhooks edit wh_01k9… --url https://example.org/new",
        "luthier webhooks edit wh_01k9… --off",
    ],
)
@click.argument("webhook_id", metavar="ID")
@click.option("--url", metavar="URL", help="Where to send.")
@click.option(
    "--event", "event_types", type=click.Choice(_TYPES), multiple=True, metavar="TYPE",
    help="Of what to tell. Repeatable.",
)  # fmt: skip
@click.option("--name", metavar="TEXT", help="Name for people.")
@click.option("--on/--off", "enabled", default=None, help="Whether to send.")
@json_option
def edit(
    *,
    webhook_id: str,
    url: str | None,
    event_types: tuple[str, ...],
    name: str | None,
    enabled: bool | None,
    as_json: bool,
) -> None:
    """Change a webhook, or turn it off or on. What is not named stays."""
    from luthier.client.values import to_json

    if url is None and name is None and enabled is None and not event_types:
        raise click.UsageError("Nothing to change: give --url, --event, --name, --on or --off.")
    with open_client() as client:
        changed = client.webhooks.edit(
            webhook_id, url=url, event_types=event_types or None, name=name, enabled=enabled
        )
    if as_json:
        print_json(to_json(changed))
    else:
        say(f"{changed.id} is changed.")


@webhooks.command(cls=Command, examples=["luthier webhooks rm wh_01k9…"])
@click.argument("webhook_ids", metavar="ID...", nargs=-1, required=True)
@yes_option
def rm(*, webhook_ids: tuple[str, ...], yes: bool) -> None:
    """Forget webhooks, and what was still to be sent to them."""
    confirm(f"Forget {', '.join(webhook_ids)}?", yes=yes)
    with open_client() as client:
        for webhook_id in webhook_ids:
            client.webhooks.delete(webhook_id)
            say(f"{webhook_id} is forgotten.")


@webhooks.command(cls=Command, examples=["luthier webhooks rotate wh_01k9… > secret.txt"])
@click.argument("webhook_id", metavar="ID")
@click.option("--at-once", is_flag=True, help="The old secret signs no more from now on.")
def rotate(*, webhook_id: str, at_once: bool) -> None:
    """Make a new signing secret. It goes to stdout; for 24 hours the old one signs as well."""
    with open_client() as client:
        made = client.webhooks.rotate_secret(webhook_id, keep_old_secret=not at_once)
    click.echo(made.secret)


@webhooks.command(
    cls=Command,
    examples=[
        "luthier webhooks test wh_01k9…",
        "luthier webhooks test wh_01k9… --event job.failed",
    ],
)
@click.argument("webhook_id", metavar="ID")
@click.option(
    "--event", "event_type", type=click.Choice(_TYPES), default="job.succeeded", metavar="TYPE",
    show_default=True, help="Of what type.",
)  # fmt: skip
@json_option
def test(*, webhook_id: str, event_type: str, as_json: bool) -> None:
    """Send an event of a job that does not exist, once; the exit code is 1 if it is not taken."""
    from luthier.client.values import to_json

    with open_client() as client:
        sent = client.webhooks.test(webhook_id, event_type=event_type)
    last = sent.tries[-1] if sent.tries else None
    if as_json:
        print_json(to_json(sent))
    elif last is not None:
        click.echo(f"{sent.event_id} {sent.state} {last.status_code or '-'}")
        say(clean(last.error or f"taken after {last.duration_seconds:.2f} s"))
    if sent.state != "delivered":
        end(ExitCode.FAILED)


@webhooks.command(
    cls=Command,
    examples=[
        "luthier webhooks deliveries wh_01k9…",
        "luthier webhooks deliveries wh_01k9… --state failed",
    ],
)
@click.argument("webhook_id", metavar="ID")
@click.option("--state", type=click.Choice(["pending", "delivered", "failed"]), help="Only these.")
@_limit_option
@json_option
def deliveries(*, webhook_id: str, state: str | None, limit: int, as_json: bool) -> None:
    """List what was sent to a webhook, or is to be, newest first."""
    from luthier.client.values import to_json

    with open_client() as client:
        found = list(client.webhooks.deliveries(webhook_id, state=state, limit=limit))
    if as_json:
        print_json(to_json(found))
        return
    rows = [
        (d.event_id, d.event_type, d.state, d.num_tries, age(d.created_at), _last_error(d.tries))
        for d in found
    ]
    print_table(("EVENT", "TYPE", "STATE", "TRIES", "AGE", "LAST ERROR"), rows)
    if any(delivery.state == "failed" for delivery in found):
        suggest(f"luthier webhooks redeliver {webhook_id} EVENT")


@webhooks.command(cls=Command, examples=["luthier webhooks redeliver wh_01k9… evt_01k9…"])
@click.argument("webhook_id", metavar="ID")
@click.argument("event_ids", metavar="EVENT...", nargs=-1, required=True)
def redeliver(*, webhook_id: str, event_ids: tuple[str, ...]) -> None:
    """Have events sent again, with the same id and body."""
    with open_client() as client:
        for event_id in event_ids:
            click.echo(f"{event_id} {client.webhooks.redeliver(webhook_id, event_id).state}")


def _last_error(tries: tuple[object, ...]) -> str | None:
    return getattr(tries[-1], "error", None) if tries else None
