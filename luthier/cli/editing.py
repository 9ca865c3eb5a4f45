"""`luthier clone`, `retry`, `edit` and `delete`: jobs made of others, changed and forgotten."""

from typing import TYPE_CHECKING, Any

import click

from luthier.cli import spec_file
from luthier.cli.command import (
    Command,
    confirm,
    json_option,
    open_client,
    timeout_option,
    yes_option,
)
from luthier.cli.output import print_json, say, suggest
from luthier.cli.watch import check_ways_to_wait, follow_option, see_to_end, wait_option

if TYPE_CHECKING:
    from luthier.client import Client, Job


@click.command(
    cls=Command,
    has_outcome=True,
    examples=[
        "luthier clone job_01k9…",
        "luthier clone job_01k9… --set training.epochs=5 --set name=longer --follow",
        "luthier clone job_01k9… --set training.early_stopping=null",
    ],
    short_help="Submit a job like another one.",
)
@click.argument("job_id", metavar="ID")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="PATH=VALUE",
    help="Change a field of the spec; null takes it away. Repeatable.",
)
@follow_option
@wait_option
@timeout_option
@json_option
def clone(*, job_id: str, settings: tuple[str, ...], as_json: bool, **seen: Any) -> None:
    """Submit a job like another one, with changes, and print the new one's id."""
    check_ways_to_wait(**seen)
    changes = spec_file.with_settings({}, settings)
    with open_client() as client:
        _submitted(client, client.jobs.clone(job_id, changes), as_json=as_json, **seen)


@click.command(
    cls=Command,
    has_outcome=True,
    examples=["luthier retry job_01k9…", "luthier retry job_01k9… --follow"],
    short_help="Submit a failed job again.",
)
@click.argument("job_id", metavar="ID")
@follow_option
@wait_option
@timeout_option
@json_option
def retry(*, job_id: str, as_json: bool, **seen: Any) -> None:
    """Submit a failed or cancelled job again, and print the new one's id.

    The old one keeps its error and its log. A paused job is resumed instead.
    """
    check_ways_to_wait(**seen)
    with open_client() as client:
        _submitted(client, client.jobs.retry(job_id), as_json=as_json, **seen)


@click.command(
    cls=Command,
    examples=[
        'luthier edit job_01k9… --name "third try" --notes "smaller steps"',
        "luthier edit job_01k9… --label team=support --label draft=",
        "luthier edit job_01k9… --priority 10",
    ],
    short_help="Change a job's name, notes, labels or priority.",
)
@click.argument("job_id", metavar="ID")
@click.option("--name", metavar="TEXT", help="Name for people; '' for none.")
@click.option("--notes", metavar="TEXT", help="Whatever is worth remembering; '' for nothing.")
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a label; KEY= takes it away. Repeatable.",
)
@click.option("--priority", type=click.IntRange(-100, 100), help="Higher starts earlier.")
@json_option
def edit(
    *,
    job_id: str,
    name: str | None,
    notes: str | None,
    labels: tuple[str, ...],
    priority: int | None,
    as_json: bool,
) -> None:
    """Change what people say of a job, and when it starts. What is not named stays."""
    from luthier.client.values import UNSET, to_json

    if name is None and notes is None and priority is None and not labels:
        raise click.UsageError("Nothing to change: give --name, --notes, --label or --priority.")
    with open_client() as client:
        job = client.jobs.edit(
            job_id,
            name=UNSET if name is None else name or None,
            notes=UNSET if notes is None else notes or None,
            labels=_labels(labels) if labels else UNSET,
            priority=UNSET if priority is None else priority,
        )
    if as_json:
        print_json(to_json(job))
    else:
        say(f"{job.id} is changed.")
        suggest(f"luthier show {job.id}")


@click.command(
    cls=Command,
    examples=["luthier delete job_01k9…", "luthier delete -y job_01k9… job_01ka…"],
    short_help="Delete jobs that have ended.",
)
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
@yes_option
def delete(*, job_ids: tuple[str, ...], yes: bool) -> None:
    """Delete jobs that have ended, with their events, logs, and the files of their models."""
    what = job_ids[0] if len(job_ids) == 1 else f"{len(job_ids)} jobs"
    confirm(f"Delete {what} with its model?" if len(job_ids) == 1 else f"Delete {what}?", yes=yes)
    with open_client() as client:
        for job_id in job_ids:
            client.jobs.delete(job_id)
            say(f"{job_id} is deleted.")


def _submitted(client: "Client", job: "Job", *, as_json: bool, **seen: Any) -> None:
    if not as_json:
        click.echo(job.id)
        say(f"It is like {job.parent_id}.")
    see_to_end(client, job, as_json=as_json, **seen)


def _labels(given: tuple[str, ...]) -> dict[str, str | None]:
    """Return labels to set, and None for those to take away."""
    labels: dict[str, str | None] = {}
    for one in given:
        key, separator, value = one.partition("=")
        if not separator or not key:
            raise click.UsageError(f"--label '{one}': write KEY=VALUE, or KEY= to take it away")
        labels[key] = value or None
    return labels
