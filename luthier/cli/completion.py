"""`luthier completion`: the script by which a shell completes commands and options."""

import click

from luthier.cli.command import Command

_SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_LUTHIER_COMPLETE"


@click.command(
    cls=Command,
    examples=[
        'luthier completion bash >> ~/.bashrc  # or: eval "$(luthier completion bash)"',
        "luthier completion zsh >> ~/.zshrc",
        "luthier completion fish > ~/.config/fish/completions/luthier.fish",
    ],
    short_help="Print a shell's completion script.",
)
@click.argument("shell", metavar="SHELL", type=click.Choice(_SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script by which bash, zsh or fish completes commands, options and their values."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, "click knows the three shells"
    click.echo(kind(ctx.find_root().command, {}, "luthier", VARIABLE).source())
