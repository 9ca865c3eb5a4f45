"""`luthier watch` and `luthier logs`: what a job does, as it does it."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from luthier.cli.command import Command, open_client
from luthier.cli.display import display_for, log_line, outcome_lines
from luthier.cli.outcomes import ExitCode, code_of_job, end
from luthier.cli.output import clean, print_json, print_json_line, say, suggest

if TYPE_CHECKING:
    from luthier.client import Client, Event, Job

follow_option = click.option("--follow", is_flag=True, help="Show progress until the job ends.")
wait_option = click.option("--wait", is_flag=True, help="Wait silently until the job ends.")
_LOG_TYPES = frozenset({"log", "warning", "error"})


@click.command(
    cls=Command,
    has_outcome=True,
    examples=["luthier watch job_01k9…", "luthier watch job_01k9… --json | jq -c .data"],
    short_help="Follow a job to its end.",
)
@click.argument("job_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print each event as a line of JSON.")
def watch(*, job_id: str, as_json: bool) -> None:
    """Follow a job to its end: progress, metrics, warnings.

    Ctrl-C stops the watching; the job goes on. The exit code is the job's outcome.
    """
    with open_client() as client:
        job = client.jobs.get(job_id)
        job = _stream(client, job) if as_json else follow_to_end(client, job)
    end(code_of_job(job))


@click.command(
    cls=Command,
    examples=[
        "luthier logs job_01k9…",
        "luthier logs job_01k9… --tail 20",
        "luthier logs job_01k9… -f",
        "luthier logs job_01k9… --failed",
    ],
    short_help="Print a job's log.",
)
@click.argument("job_id", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job ends.")
@click.option("--tail", type=click.IntRange(min=1), metavar="N", help="Only the last N lines.")
@click.option("--failed", is_flag=True, help="Only of attempts that came to no good end.")
@click.option("--json", "as_json", is_flag=True, help="Print each entry as a line of JSON.")
def logs(*, job_id: str, follow: bool, tail: int | None, failed: bool, as_json: bool) -> None:
    """Print a job's log, warnings and errors, oldest first.

    It prints what there is and ends; with --follow it goes on until the job ends.
    """
    if failed and follow:
        raise click.UsageError("--failed goes with what is over, not with --follow.")
    with open_client() as client, _goes_on(job_id):
        if not follow and not as_json and not failed:
            for line in client.jobs.logs(job_id, tail=tail).splitlines():
                click.echo(clean(line))
            return
        wanted = _failed_attempts(client.jobs.get(job_id)) if failed else None
        past: deque[Event] = deque(maxlen=tail)
        last = 0
        for event in client.jobs.history(job_id):
            last = event.id
            if event.type in _LOG_TYPES and (wanted is None or event.attempt in wanted):
                past.append(event)
        for event in past:
            _print_entry(event, as_json=as_json)
        for event in client.jobs.events(job_id, after=last) if follow else ():
            if event.type in _LOG_TYPES:
                _print_entry(event, as_json=as_json)


def see_to_end(
    client: "Client",
    job: "Job",
    *,
    follow: bool,
    wait: bool,
    timeout: float | None,
    as_json: bool,
) -> None:
    """End a command that has submitted a job: at once, or with the job and its outcome."""
    from luthier.client.values import to_json

    if follow:
        job = follow_to_end(client, job)
    elif wait:
        job = wait_for(client, job.id, timeout=timeout)
    if as_json:
        print_json(to_json(job))
    if follow or wait:
        end(code_of_job(job))
    suggest(f"luthier watch {job.id}")


def check_ways_to_wait(*, follow: bool, wait: bool, timeout: float | None) -> None:
    """Refuse a time-out of what is not waited for."""
    if timeout is not None and (follow or not wait):
        raise click.UsageError("--timeout goes with --wait.")


def follow_to_end(client: "Client", job: "Job") -> "Job":
    """Show a job's events until it has ended, and return it then."""
    if job.state == "queued":
        say(f"{job.id} is queued, number {job.queue_position} in the queue.")
    with _goes_on(job.id), display_for(job) as display:
        for event in client.jobs.events(job.id):
            display.show(event)
            is_pause = event.type == "state" and event.data.get("state") == "paused"
            if is_pause and client.jobs.get(job.id).state == "paused":  # and not long ago
                suggest(f"luthier resume {job.id}")
    job = client.jobs.get(job.id)
    for line in outcome_lines(job):
        say(line)
    if job.state == "succeeded" or job.artifacts:
        suggest(f"luthier download {job.id}")
    elif job.state == "failed":
        suggest(f"luthier logs {job.id}")
    return job


def wait_for(client: "Client", job_id: str, *, timeout: float | None) -> "Job":
    """Return a job once it has ended."""
    with _goes_on(job_id):
        return client.jobs.wait(job_id, timeout=timeout)


def _stream(client: "Client", job: "Job") -> "Job":
    from luthier.client.values import to_json

    with _goes_on(job.id):
        for event in client.jobs.events(job.id):
            print_json_line(to_json(event))
    return client.jobs.get(job.id)


@contextmanager
def _goes_on(job_id: str) -> Iterator[None]:
    """On Ctrl-C say that only the watching ends."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"\nNo longer watching. {job_id} goes on.")
        suggest(f"luthier watch {job_id}", f"luthier cancel {job_id}")
        end(ExitCode.INTERRUPTED)


def _failed_attempts(job: "Job") -> frozenset[int]:
    """Return the attempts that were lost, stopped or failed; one that still runs is none."""
    over = {attempt.number for attempt in job.attempts if attempt.finished_at is not None}
    is_good = job.state in {"succeeded", "cancelled", "paused"}
    return frozenset(over - {job.attempt} if is_good else over)


def _print_entry(event: "Event", *, as_json: bool) -> None:
    from luthier.client.values import to_json

    if as_json:
        print_json_line(to_json(event))
    else:
        click.echo(log_line(event))
