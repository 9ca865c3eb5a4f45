"""How a command ends: its exit code, and what it says of an error."""

from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NoReturn

import click

from luthier.cli.output import clean, count, say
from trainer_core.errors import FieldProblem, LuthierError

if TYPE_CHECKING:
    from luthier.client import Job

SHOWN_ROWS = 20


class ExitCode(IntEnum):
    """What a script learns from a command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CANCELLED = 3
    UNREACHABLE = 4
    TIMED_OUT = 5
    INTERRUPTED = 130


EXIT_CODES = (
    (ExitCode.OK, "done; the job succeeded"),
    (ExitCode.FAILED, "the job failed, or the request was refused"),
    (ExitCode.USAGE, "the command was given wrongly"),
    (ExitCode.CANCELLED, "the job was cancelled"),
    (ExitCode.UNREACHABLE, "no service there, or it does not accept the key"),
    (ExitCode.TIMED_OUT, "--timeout is over; the job goes on"),
    (ExitCode.INTERRUPTED, "Ctrl-C; the job goes on"),
)


def end(code: ExitCode) -> NoReturn:
    """End the command."""
    raise click.exceptions.Exit(code)


def code_of_job(job: "Job") -> ExitCode:
    """Return the exit code that a job's end stands for."""
    by_state = {"succeeded": ExitCode.OK, "cancelled": ExitCode.CANCELLED}
    return by_state.get(job.state, ExitCode.FAILED)


def code_of_jobs(jobs: "list[Job]") -> ExitCode:
    """Return the exit code of several jobs: a failure weighs more than a cancellation."""
    codes = {code_of_job(job) for job in jobs}
    for code in (ExitCode.FAILED, ExitCode.CANCELLED):
        if code in codes:
            return code
    return ExitCode.OK


def code_of_error(error: LuthierError) -> ExitCode:
    """Return the exit code that an error stands for."""
    from luthier.client.calls import is_temporary
    from luthier.client.errors import (
        AuthenticationFailed,
        LuthierAPIError,
        UnexpectedReply,
        WaitTimedOut,
    )

    match error:
        case WaitTimedOut():
            return ExitCode.TIMED_OUT
        case AuthenticationFailed() | UnexpectedReply():
            return ExitCode.UNREACHABLE
        case LuthierAPIError() if is_temporary(error):
            return ExitCode.UNREACHABLE
        case _:
            return ExitCode.FAILED


def report(error: LuthierError) -> None:
    """Say what went wrong, where, and what to do."""
    problems = getattr(error, "errors", ())
    for line in described(error.message, hint=error.hint, detail=error.detail, errors=problems):
        say(line)
    status = getattr(error, "status", None)
    request_id = getattr(error, "request_id", None)
    if request_id and (status is None or status >= 500):
        say(f"request: {clean(request_id)}")


def described(
    message: str,
    *,
    hint: str,
    detail: Mapping[str, Any],
    errors: tuple[FieldProblem, ...] = (),
) -> Iterator[str]:
    """Yield the lines that tell an error.

    Args:
        message: what happened.
        hint: what to do.
        detail: may have the `rows` that are bad, and their `total`.
        errors: the wrong fields; if there is one, the message tells it already.
    """
    rows = [row for row in detail.get("rows") or () if isinstance(row, Mapping)]
    if rows:
        total = detail.get("total", len(rows))
        yield click.style("error: ", fg="red") + count(total, "bad row")
        yield from bad_rows(rows, total=total)
    elif len(errors) > 1:
        yield click.style("error: ", fg="red") + f"{len(errors)} fields are wrong"
        for problem in errors:
            more = f" ({clean(problem.hint)})" if problem.hint else ""
            yield f"  {clean(problem.pointer) or '/'}: {clean(problem.message)}{more}"
        return
    else:
        yield click.style("error: ", fg="red") + clean(message)
    if hint:
        yield f"hint: {clean(hint)}"


def bad_rows(rows: list[Mapping[str, Any]], *, total: int) -> Iterator[str]:
    """Yield a line a bad row, in the form in which compilers name a place."""
    for row in rows[:SHOWN_ROWS]:
        column = f" {clean(str(row['column']))}:" if row.get("column") else ""
        place = f"{clean(str(row.get('file', '')))}:{row.get('line', '?')}:"
        yield f"  {place}{column} {clean(str(row.get('reason', '')))}"
    if total > SHOWN_ROWS:
        yield f"  … and {total - SHOWN_ROWS} more"
