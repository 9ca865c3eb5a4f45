"""`luthier open`: what the service shows in a browser."""

import os
import sys
import webbrowser

import click

from luthier.cli.command import Command, open_client
from luthier.cli.output import say


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

    Where there is no browser the URL is all. It holds no key: the service asks for that itself.
    """
    from luthier.client.calls import path_of

    with open_client() as client:
        url = client.base_url + ("/" if job_id is None else path_of("jobs", job_id))
    click.echo(url)
    if not is_printed and (not _has_screen() or not webbrowser.open(url)):
        say("There is no browser here; open the URL in one.")


def _has_screen() -> bool:
    """Return whether a browser would be a window, and not take the terminal."""
    if sys.platform in {"darwin", "win32"}:
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
