"""`luthier tasks`: what can be trained, and how a spec of it looks."""

import click

from luthier.cli.command import Command, json_option, open_client
from luthier.cli.output import clean, print_json, print_table, suggest


@click.command(
    cls=Command,
    examples=[
        "luthier tasks",
        "luthier tasks text-classification",
        "luthier tasks text-classification --example > job.json",
        "luthier tasks text-classification --json | jq .schema",
    ],
    short_help="Show what can be trained.",
)
@click.argument("task", required=False)
@click.option("--example", is_flag=True, help="Print an example spec alone.")
@json_option
def tasks(*, task: str | None, example: bool, as_json: bool) -> None:
    """List the tasks, or show one: metrics, an example spec, with --json the schema as well."""
    if task is None:
        if example:
            raise click.UsageError("--example needs a TASK.")
        _list(as_json=as_json)
        return
    from luthier.client.values import to_json

    with open_client() as client:
        found = client.tasks.get(task)
    if example:
        print_json(to_json(found.example))
    elif as_json:
        print_json(to_json(found))
    else:
        click.echo(f"{clean(found.task)}: {clean(found.summary)}")
        click.echo(f"metrics: {clean(', '.join(found.metrics))}")
        click.echo("example:")
        print_json(to_json(found.example))
        suggest(f"luthier tasks {found.task} --example > job.json")


def _list(*, as_json: bool) -> None:
    from luthier.client.values import to_json

    with open_client() as client:
        found = client.tasks.list()
    if as_json:
        print_json(to_json(found))
        return
    print_table(("TASK", "SUMMARY"), [(task.task, task.summary) for task in found])
    if found:
        suggest(f"luthier tasks {found[0].task}")
