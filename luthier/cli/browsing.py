"""`luthier open`: what the service shows in a browser."""

import os
import sys
import webbrowser

import click

from luthier.cli.command import Command, open_client
from luthier.cli.output import say

_JOB_FORM = "#/jobs/get_job"  # Swagger UI's name of the route


@click.command(
    "open",
    cls=Command,
    examples=["luthier open", "luthier open job_01k9…", "luthier open --print"],
    short_help="Open the service in a browser.",
)
@click.argument("job_id", metavar="[ID]", required=False)
@click.option("--print", "is_printed", is_flag=True, help="Print the URL only.")
def open_(*, job_id: str | None, is_printed: bool) -> None:
    """Open the service, or one job, in a browser, and print the URL.

    The service shows every route at /docs, with a form to try it, and a job as JSON. A browser has
    no key to send: where you have set one, a job's URL leads to its form, and the key is entered
    there, under Authorize. Where there is no browser the URL is all.
    """
    from luthier.client.calls import key_of, path_of

    has_key = key_of(os.environ) is not None
    page = "/docs"
    if job_id is not None:
        page = f"/docs{_JOB_FORM}" if has_key else path_of("jobs", job_id)
    with open_client() as client:
        url = client.base_url + page
    click.echo(url)
    if has_key:
        say("The browser has no key: enter it there, under Authorize.")
    if not is_printed and (not _has_screen() or not webbrowser.open(url)):
        say("There is no browser here; open the URL in one.")


def _has_screen() -> bool:
    """Return whether a browser would be a window, and not take the terminal."""
    if sys.platform in {"darwin", "win32"}:
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
