"""Commands whose help starts with examples, and options that several of them share."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from luthier.cli.outcomes import EXIT_CODES

if TYPE_CHECKING:
    from luthier.client import Client


class Command(click.Command):
    """A command with examples."""

    def __init__(
        self,
        *args: Any,
        examples: Sequence[str] = (),
        has_outcome: bool = False,
        **kwargs: Any,
    ) -> None:
        """Take what click takes, and more.

        Args:
            args: click's.
            examples: command lines, most usual first.
            has_outcome: whether the exit code tells a job's end, so that help lists the codes.
            kwargs: click's.
        """
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        self.has_outcome = has_outcome

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_examples(formatter, self.examples)
        super().format_help(ctx, formatter)
        if self.has_outcome:
            write_exit_codes(formatter)


class Group(click.Group):
    """A group of such commands, listed in the order in which they were added."""

    command_class = Command

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_examples(formatter, self.examples)
        super().format_help(ctx, formatter)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.commands)


def write_examples(formatter: click.HelpFormatter, examples: Sequence[str]) -> None:
    """Write the examples' section."""
    with formatter.section("Examples"):
        for example in examples:
            formatter.write(f"{'':>{formatter.current_indent}}{example}\n")
    formatter.write("\n")


def write_exit_codes(formatter: click.HelpFormatter) -> None:
    """Write the exit codes' section."""
    with formatter.section("Exit codes"):
        formatter.write_dl([(str(code.value), text) for code, text in EXIT_CODES])


def open_client() -> "Client":
    """Return a client of the service that the environment names."""
    from luthier.client import Client

    return Client()


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON on stdout, for programs."
)
checkpoint_option = click.option(
    "--checkpoint",
    type=click.IntRange(min=1),
    metavar="STEP",
    help="The model, or adapter, as it was at a step of which a checkpoint is stored.",
)
yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask.")
timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Stop waiting after so long. The job goes on.",
)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is ended or lost; where nobody can answer, `-y` is needed."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Nobody is here to answer: add -y.")
    if not click.confirm(question, err=True):
        raise click.Abort


def parse_labels(
    ctx: click.Context,  # noqa: ARG001 - click's signature
    param: click.Parameter,
    values: Sequence[str],
) -> dict[str, str]:
    """Return `key=value` options as a mapping."""
    labels = {}
    for value in values:
        key, separator, text = value.partition("=")
        if not separator or not key:
            raise click.BadParameter(f"'{value}' is not key=value", param=param)
        labels[key] = text
    return labels
