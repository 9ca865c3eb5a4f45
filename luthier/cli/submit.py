"""`luthier submit`: upload what has to be, post the spec, and follow the job if asked to."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from luthier.cli import spec_file
from luthier.cli.command import Command, json_option, open_client, timeout_option
from luthier.cli.datasets import upload
from luthier.cli.output import say
from luthier.cli.watch import check_ways_to_wait, follow_option, see_to_end, wait_option

if TYPE_CHECKING:
    from luthier.client import Client, Job

_Rows = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(
    cls=Command,
    has_outcome=True,
    examples=[
        "luthier submit job.json",
        "luthier submit job.json --train train.csv --eval eval.csv --follow",
        "luthier submit job.json --set training.epochs=5 --set labels.team=support",
        "luthier tasks text-classification --example | luthier submit - --train train.csv",
    ],
    short_help="Submit a job.",
)
@click.argument("file", metavar="FILE|-")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="PATH=VALUE",
    help="Set a field of the spec; VALUE is JSON, or else text. Repeatable.",
)
@click.option("--train", type=_Rows, metavar="PATH", help="Upload a file as data.train.")
@click.option("--eval", "eval_", type=_Rows, metavar="PATH", help="Upload a file as data.eval.")
@click.option("--test", type=_Rows, metavar="PATH", help="Upload a file as data.test.")
@follow_option
@wait_option
@timeout_option
@json_option
def submit(
    *,
    file: str,
    settings: tuple[str, ...],
    train: Path | None,
    eval_: Path | None,
    test: Path | None,
    follow: bool,
    wait: bool,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Submit the job whose spec is in FILE, or on stdin, and print its id.

    With --follow or --wait the exit code is the job's outcome.
    """
    spec = spec_file.with_settings(spec_file.read_spec(file), settings)
    given = {"train": train, "eval": eval_, "test": test}
    check_ways_to_wait(follow=follow, wait=wait, timeout=timeout)
    with open_client() as client:
        references = _uploaded(client, {split: p for split, p in given.items() if p})
        spec = spec_file.with_settings(spec, references)
        job = _created(client, spec, references)
        if not as_json:
            click.echo(job.id)
        see_to_end(client, job, follow=follow, wait=wait, timeout=timeout, as_json=as_json)


def _uploaded(client: "Client", files: dict[str, Path]) -> list[str]:
    """Upload files and return the settings that refer to them."""
    return [
        f"data.{split}=dataset:{upload(client, path, has_header=True).id}"
        for split, path in files.items()
    ]


def _created(client: "Client", spec: spec_file.Json, references: list[str]) -> "Job":
    from luthier.client.errors import RequestRefused

    try:
        return client.jobs.create(spec)
    except RequestRefused:
        if references:
            options = " ".join(f"--set {reference}" for reference in references)
            say(f"The files are uploaded; to use them again: {options}")
        raise
