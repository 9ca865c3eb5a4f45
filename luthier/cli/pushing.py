"""`luthier push`: a model of a job to the Hub, without training."""

from typing import TYPE_CHECKING

import click

from luthier.cli.command import (
    Command,
    checkpoint_option,
    json_option,
    open_client,
    timeout_option,
)
from luthier.cli.outcomes import ExitCode, described, end
from luthier.cli.output import print_json, say, suggest

if TYPE_CHECKING:
    from luthier.client.values import Push


@click.command(
    cls=Command,
    has_outcome=True,
    examples=[
        "luthier push job_01k9… --repo me/my-model",
        "luthier push job_01k9… --branch v2 --tag v2.0 --wait",
        "luthier push job_01k9… --checkpoint 40 --branch step-40",
    ],
    short_help="Push a job's model to the Hub.",
)
@click.argument("job_id", metavar="ID")
@checkpoint_option
@click.option("--repo", metavar="OWNER/NAME", help="Repository; made if it is not there.")
@click.option(
    "--private/--public",
    default=None,
    help="Push to a private repository only, or to a public one. Default: private.",
)
@click.option("--branch", metavar="NAME", help="Branch; made if it is not there.")
@click.option("--tag", metavar="NAME", help="Tag for what is pushed.")
@click.option("--secret", metavar="NAME", help="Stored secret with a token that may write.")
@click.option("--wait", is_flag=True, help="Wait for its end; the exit code tells how it went.")
@timeout_option
@json_option
def push(
    *,
    job_id: str,
    checkpoint: int | None,
    repo: str | None,
    private: bool | None,
    branch: str | None,
    tag: str | None,
    secret: str | None,
    wait: bool,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Push a model of a job to the Hub, again or for the first time.

    What is not given is as the job's spec has it in `output.push`. A worker does it.
    """
    from luthier.client.values import to_json

    if timeout is not None and not wait:
        raise click.UsageError("--timeout goes with --wait.")
    with open_client() as client:
        found = client.jobs.push(
            job_id,
            checkpoint=checkpoint,
            repo=repo,
            private=private,
            branch=branch,
            tag=tag,
            secret=secret,
        )
        if wait:
            found = client.jobs.wait_for_push(job_id, number=found.number, timeout=timeout)
    if as_json:
        print_json(to_json(found))
    elif found.error is not None:
        for line in described(found.error.message, hint=found.error.hint, detail={}):
            say(line)
    else:
        say(f"{job_id}: {push_line(found)}.")
        suggest(f"luthier show {job_id}")
    end(ExitCode.FAILED if found.state == "failed" else ExitCode.OK)


def push_line(push: "Push") -> str:
    """Return how a push stands, in a line."""
    place = push.repo + (f"@{push.branch}" if push.branch else "")
    what = f"{push.checkpoint} " if push.checkpoint else ""
    match push.state:
        case "pushed":
            return f"{what}pushed to {place}, {push.url}"
        case "failed":
            return f"{what}failed: {push.error.message if push.error else place}"
        case _:
            return f"{what}to {place}, pending"
