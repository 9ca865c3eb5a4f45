"""`luthier datasets`: upload, list, look into, delete."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from luthier.cli.command import Command, Group, confirm, json_option, open_client, yes_option
from luthier.cli.outcomes import bad_rows
from luthier.cli.output import age, clean, count, print_json, print_table, say, size, suggest
from luthier.cli.transfer import transfer

if TYPE_CHECKING:
    from luthier.client import Client, Dataset

_CELL_CHARACTERS = 60


@click.group(
    cls=Group,
    examples=["luthier datasets add train.csv eval.csv", "luthier datasets ls"],
    short_help="Upload rows and look at them.",
)
def datasets() -> None:
    """Data sets: files of rows that jobs refer to as `dataset:ID`."""


@datasets.command(
    cls=Command,
    examples=["luthier datasets add train.csv", "luthier datasets add --no-header train.tsv"],
    short_help="Upload files of rows.",
)
@click.argument(
    "paths",
    metavar="PATH...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option("--no-header", is_flag=True, help="The first line of a CSV or TSV file is a row.")
@json_option
def add(*, paths: tuple[Path, ...], no_header: bool, as_json: bool) -> None:
    """Upload files of rows: JSONL, JSON, CSV, TSV, CoNLL, Parquet or text; .gz, .zst too."""
    from luthier.client.values import to_json

    with open_client() as client:
        found = []
        for path in paths:
            found.append(upload(client, path, has_header=not no_header))
            if not as_json:
                click.echo(found[-1].id)
    if as_json:
        print_json(to_json(found))
    else:
        suggest(f"luthier submit job.json --set data.train=dataset:{found[0].id}")


@datasets.command(cls=Command, examples=["luthier datasets ls"])
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many."
)
@json_option
def ls(*, limit: int, as_json: bool) -> None:
    """List data sets, newest first."""
    from luthier.client.values import to_json

    with open_client() as client:
        found = list(client.datasets.list(limit=limit))
    if as_json:
        print_json(to_json(found))
        return
    print_table(
        ("ID", "ROWS", "SIZE", "AGE", "NAME"),
        [(d.id, d.num_rows, size(d.size_bytes), age(d.created_at), d.name) for d in found],
    )


@datasets.command(cls=Command, examples=["luthier datasets preview ds_01k9…"])
@click.argument("dataset_id", metavar="ID")
@json_option
def preview(*, dataset_id: str, as_json: bool) -> None:
    """Show the first rows of a data set."""
    from luthier.client.values import to_json

    with open_client() as client:
        found = client.datasets.preview(dataset_id)
    if as_json:
        print_json(to_json(found))
        return
    names = [column["name"] if isinstance(column, Mapping) else column for column in found.columns]
    print_table(names, [[_cell(row.get(name)) for name in names] for row in found.rows])


@datasets.command(cls=Command, examples=["luthier datasets rm ds_01k9…"])
@click.argument("dataset_ids", metavar="ID...", nargs=-1, required=True)
@yes_option
def rm(*, dataset_ids: tuple[str, ...], yes: bool) -> None:
    """Delete data sets that no job needs any more."""
    what = dataset_ids[0] if len(dataset_ids) == 1 else f"{len(dataset_ids)} data sets"
    confirm(f"Delete {what}?", yes=yes)
    with open_client() as client:
        for dataset_id in dataset_ids:
            client.datasets.delete(dataset_id)
            say(f"{dataset_id} is deleted.")


def upload(client: "Client", path: Path, *, has_header: bool) -> "Dataset":
    """Upload a file, and say what the service found in it."""
    from luthier.client.values import to_json

    with transfer(f"uploading {path.name}") as progress:
        dataset = client.datasets.upload(path, has_header=has_header, progress=progress)
    columns = ", ".join(column.name for column in dataset.columns)
    say(clean(f"{path}: {count(dataset.num_rows, 'row')} of {dataset.format}, columns {columns}"))
    for note in dataset.notes:
        say(clean(f"  note: {note}"))
    if dataset.num_bad_rows:
        say(f"  {count(dataset.num_bad_rows, 'bad row')}:")
        for line in bad_rows(to_json(dataset.bad_rows), total=dataset.num_bad_rows):
            say(line)
    return dataset


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= _CELL_CHARACTERS else text[: _CELL_CHARACTERS - 1] + "…"
