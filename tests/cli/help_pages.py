"""Every page of help in one text. Renew the snapshot with `python -m tests.cli.help_pages`."""

from collections.abc import Iterator
from pathlib import Path

import click

from luthier.cli.main import cli

SNAPSHOT = Path(__file__).parents[1] / "snapshots" / "cli_help.txt"
_WIDTH = 80


def rendered() -> str:
    """Return the help of every command, each under its command line."""
    root = click.Context(cli, info_name="luthier", terminal_width=_WIDTH)
    root.help_option_names = ["-h", "--help"]
    return "\n".join(_pages(root))


def _pages(context: click.Context) -> Iterator[str]:
    yield f"$ {context.command_path} --help\n{context.get_help()}\n"
    command = context.command
    if not isinstance(command, click.Group):
        return
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        assert child is not None
        yield from _pages(click.Context(child, info_name=name, parent=context))


if __name__ == "__main__":
    SNAPSHOT.write_text(rendered(), encoding="utf-8")
