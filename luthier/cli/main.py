"""The entry point: the group of all commands, and the last stop of every error."""

import os
import sys
import traceback
from typing import Any

import click

from luthier.cli import (
    browsing,
    checking,
    comparing,
    completion,
    datasets,
    editing,
    jobs,
    keys,
    models,
    projects,
    pushing,
    secrets,
    service,
    submit,
    sweeps,
    tasks,
    validate,
    watch,
    webhooks,
)
from luthier.cli.command import Group, write_exit_codes
from luthier.cli.outcomes import ExitCode, code_of_error, end, report
from luthier.cli.output import say
from trainer_core.errors import LuthierError

_ENVIRONMENT = (
    ("LUTHIER_URL", "Where the service is. Default http://127.0.0.1:8750."),
    ("LUTHIER_API_KEY", "Key that the service asks for. There is no option for it, on purpose."),
    ("LUTHIER_API_KEY_FILE", "File that holds the key, in place of the variable."),
    ("LUTHIER_TRACEBACK", "Set to 1 to see where an unforeseen error came from."),
)
_COMPLETION = (("luthier completion SHELL", "for bash, zsh and fish"),)


_OTHER_NAMES = {"dataset": "datasets"}


class _Luthier(Group):
    """The group that turns every error into a message and an exit code."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, _OTHER_NAMES.get(cmd_name, cmd_name))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click knows what to do
        except LuthierError as error:
            report(error)
            end(code_of_error(error))
        except OSError as error:
            say(f"error: {error.filename or 'the system'}: {error.strerror or error}")
            end(ExitCode.FAILED)
        except KeyboardInterrupt:
            say("interrupted.")
            end(ExitCode.INTERRUPTED)
        except Exception as error:  # noqa: BLE001 - a person at a terminal gets no traceback
            if os.environ.get("LUTHIER_TRACEBACK"):
                traceback.print_exception(error, file=sys.stderr)
            say(f"error: unforeseen {type(error).__name__}: {error}")
            say("hint: this is a defect of luthier; LUTHIER_TRACEBACK=1 shows where it arose.")
            end(ExitCode.FAILED)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Environment"):
            formatter.write_dl(_ENVIRONMENT)
        write_exit_codes(formatter)
        with formatter.section("Completion of commands and options"):
            formatter.write_dl(_COMPLETION)


@click.group(
    cls=_Luthier,
    examples=[
        "luthier up",
        "luthier submit job.json --train train.csv --follow",
        "luthier ps --state running",
        "luthier download job_01k9… --to model",
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="luthier", message="%(prog)s %(version)s")
def cli() -> None:
    """Fine-tune Transformers models on a service of your own."""


for _command in (
    submit.submit,
    validate.validate,
    validate.estimate,
    jobs.ps,
    jobs.show,
    watch.watch,
    watch.logs,
    jobs.wait,
    jobs.pause,
    jobs.resume,
    jobs.cancel,
    editing.clone,
    editing.retry,
    editing.edit,
    editing.delete,
    comparing.diff,
    jobs.download,
    pushing.push,
    datasets.datasets,
    models.models,
    tasks.tasks,
    sweeps.sweeps,
    webhooks.webhooks,
    browsing.open_,
    completion.completion,
    secrets.secrets,
    keys.keys,
    projects.projects,
    service.up,
    service.api,
    service.worker,
):
    cli.add_command(_command)
datasets.datasets.add_command(checking.check)
