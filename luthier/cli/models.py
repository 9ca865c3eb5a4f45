"""`luthier models`: register base models."""

import click

from luthier.cli.command import Command, Group, json_option, open_client
from luthier.cli.output import age, print_json, print_table, suggest


@click.group(
    cls=Group,
    examples=[
        "luthier models add minilm --hub sentence-transformers/all-MiniLM-L6-v2",
        "luthier models ls",
    ],
    short_help="Register base models.",
)
def models() -> None:
    """Base models under names of your own, which specs refer to as `model:NAME`."""


@models.command(
    cls=Command,
    examples=[
        "luthier models add minilm --hub sentence-transformers/all-MiniLM-L6-v2 --revision main",
        "luthier models add minilm --path /srv/models/minilm",
    ],
)
@click.argument("name", metavar="NAME")
@click.option("--path", metavar="DIR", help="Folder on the server, below LUTHIER_MODEL_ROOTS.")
@click.option("--hub", metavar="REPO", help="Repository on the Hub, as owner/name.")
@click.option("--revision", metavar="REV", help="Branch, tag or commit of the repository.")
@json_option
def add(
    *, name: str, path: str | None, hub: str | None, revision: str | None, as_json: bool
) -> None:
    """Register a base model from a folder of the server or from the Hub."""
    from luthier.client.values import to_json

    if (path is None) == (hub is None):
        raise click.UsageError("Give one of --path DIR and --hub REPO.")
    if revision is not None and hub is None:
        raise click.UsageError("--revision goes with --hub.")
    with open_client() as client:
        model = client.models.add(name, path=path, hub=hub, revision=revision)
    if as_json:
        print_json(to_json(model))
        return
    click.echo(f"model:{model.name}")
    suggest(f"luthier submit job.json --set model=model:{model.name}")


@models.command(cls=Command, examples=["luthier models ls"])
@json_option
def ls(*, as_json: bool) -> None:
    """List the registered base models."""
    from luthier.client.values import to_json

    with open_client() as client:
        found = list(client.models.list())
    if as_json:
        print_json(to_json(found))
        return
    rows = [
        (model.name, model.path or f"hub:{model.hub}", model.revision, age(model.created_at))
        for model in found
    ]
    print_table(("NAME", "SOURCE", "REVISION", "AGE"), rows)
    if not found:
        suggest("luthier models add NAME --hub REPO")
