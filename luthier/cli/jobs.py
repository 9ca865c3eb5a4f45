"""`luthier ps`, `show`, `wait`, `pause`, `resume`, `cancel`, `download`: jobs, one or many."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from luthier.cli.command import (
    Command,
    checkpoint_option,
    confirm,
    json_option,
    open_client,
    parse_labels,
    timeout_option,
    yes_option,
)
from luthier.cli.display import outcome_lines
from luthier.cli.outcomes import code_of_jobs, end
from luthier.cli.output import (
    age,
    count,
    duration,
    moment,
    number,
    pairs,
    print_fields,
    print_json,
    print_table,
    say,
    size,
    suggest,
)
from luthier.cli.pushing import push_line
from luthier.cli.transfer import transfer
from luthier.cli.watch import wait_for

if TYPE_CHECKING:
    from luthier.client import Job
    from luthier.client.values import JobProgress


@click.command(
    cls=Command,
    examples=[
        "luthier ps",
        "luthier ps --state running --label team=support",
        "luthier ps --json | jq -r '.[].id'",
    ],
    short_help="List jobs.",
)
@click.option(
    "--state",
    "states",
    multiple=True,
    metavar="STATE",
    help="Only jobs in this state, such as running. Repeatable.",
)
@click.option("--task", metavar="TASK", help="Only jobs of this task.")
@click.option("--model", metavar="MODEL", help="Only jobs of this base model, as specs write it.")
@click.option("--name", metavar="NAME", help="Only jobs of exactly this name.")
@click.option("--parent", metavar="ID", help="Only jobs cloned from this one, or trying it again.")
@click.option(
    "--label",
    "labels",
    multiple=True,
    callback=parse_labels,
    metavar="KEY=VALUE",
    help="Only jobs with this label. Repeatable.",
)
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many."
)
@json_option
def ps(*, states: tuple[str, ...], limit: int, as_json: bool, **filters: Any) -> None:
    """List jobs, newest first."""
    from luthier.client.values import to_json

    with open_client() as client:
        jobs = list(client.jobs.list(state=states or None, limit=limit, **filters))
    if as_json:
        print_json(to_json(jobs))
        return
    headers = ("ID", "STATE", "TASK", "PROGRESS", "AGE", "NAME")
    print_table(headers, [_row(job) for job in jobs])
    if not jobs:
        suggest("luthier submit job.json")
    elif len(jobs) == limit:
        say(f"The newest {limit} are shown; --limit shows more.")


@click.command(
    cls=Command,
    examples=["luthier show job_01k9…", "luthier show job_01k9… --json | jq .metrics"],
    short_help="Show one job.",
)
@click.argument("job_id", metavar="ID")
@json_option
def show(*, job_id: str, as_json: bool) -> None:
    """Show one job: state, progress, metrics, error, attempts and files."""
    from luthier.client.values import to_json

    with open_client() as client:
        job = client.jobs.get(job_id)
    if as_json:
        print_json(to_json(job))
        return
    print_fields(list(_fields(job)))
    if job.error is not None:
        for line in list(outcome_lines(job))[1:]:
            say(line)
    if job.artifacts:
        suggest(f"luthier download {job.id}")


@click.command(
    cls=Command,
    has_outcome=True,
    examples=["luthier wait job_01k9…", "luthier wait job_01k9… job_01ka… --timeout 3600"],
    short_help="Wait until jobs have ended.",
)
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
@timeout_option
@json_option
def wait(*, job_ids: tuple[str, ...], timeout: float | None, as_json: bool) -> None:
    """Wait silently until every job has ended; the exit code is their outcome.

    It is 0 only if all have succeeded. The time-out is for all of them together. A paused job has
    not ended.
    """
    import time

    from luthier.client.values import to_json

    deadline = None if timeout is None else time.monotonic() + timeout
    jobs = []
    with open_client() as client:
        for job_id in job_ids:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            jobs.append(wait_for(client, job_id, timeout=left))
    for job in jobs:
        for line in outcome_lines(job):
            say(line)
    if as_json:
        print_json(to_json(jobs))
    end(code_of_jobs(jobs))


@click.command(
    cls=Command,
    examples=["luthier pause job_01k9…", "luthier pause job_01k9… job_01ka…"],
    short_help="Pause jobs.",
)
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
@json_option
def pause(*, job_ids: tuple[str, ...], as_json: bool) -> None:
    """Pause jobs: one that runs saves a checkpoint and leaves its device."""
    with open_client() as client:
        _print_states([client.jobs.pause(job_id) for job_id in job_ids], as_json=as_json)
    if not as_json:
        suggest(f"luthier resume {' '.join(job_ids)}")


@click.command(
    cls=Command,
    examples=["luthier resume job_01k9…", "luthier resume job_01k9… job_01ka…"],
    short_help="Resume paused jobs.",
)
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
@json_option
def resume(*, job_ids: tuple[str, ...], as_json: bool) -> None:
    """Queue paused jobs again: they go on at the step that they had come to."""
    with open_client() as client:
        _print_states([client.jobs.resume(job_id) for job_id in job_ids], as_json=as_json)


@click.command(
    cls=Command,
    examples=[
        "luthier cancel job_01k9…",
        "luthier cancel --keep job_01k9…",
        "luthier cancel -y job_01k9… job_01ka…",
    ],
    short_help="Cancel jobs.",
)
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
@click.option("--keep", is_flag=True, help="Measure and store what a running job has learnt first.")
@yes_option
@json_option
def cancel(*, job_ids: tuple[str, ...], keep: bool, yes: bool, as_json: bool) -> None:
    """Cancel jobs: one that waits ends at once, one that runs within seconds.

    With --keep a running job ends as if its training were over, and its model can be downloaded.
    Cancelled again without, it ends at once.
    """
    what = job_ids[0] if len(job_ids) == 1 else f"{len(job_ids)} jobs"
    confirm(f"Cancel {what}?", yes=yes)
    with open_client() as client:
        jobs = [client.jobs.cancel(job_id, keep=keep) for job_id in job_ids]
    _print_states(jobs, as_json=as_json)


@click.command(
    cls=Command,
    examples=[
        "luthier download job_01k9…",
        "luthier download job_01k9… --to model",
        "luthier download job_01k9… --checkpoint 40",
    ],
    short_help="Download a job's model.",
)
@click.argument("job_id", metavar="ID")
@checkpoint_option
@click.option(
    "--to",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder, made if it is not there. Default: one named after the job, and the step.",
)
@json_option
def download(*, job_id: str, checkpoint: int | None, to: Path | None, as_json: bool) -> None:
    """Download a job's model into a folder that `from_pretrained` loads, and print its path.

    Every file's SHA-256 is checked. Run it again after a break: it goes on where it was.
    """
    name = job_id if checkpoint is None else f"{job_id}-checkpoint-{checkpoint}"
    folder = to or Path(name)
    with open_client() as client, transfer(f"downloading {name}") as progress:
        paths = client.jobs.download(job_id, folder, checkpoint=checkpoint, progress=progress)
    files = [{"path": str(path), "size_bytes": path.stat().st_size} for path in paths]
    if as_json:
        print_json({"job_id": job_id, "folder": str(folder), "files": files})
        return
    total = sum(path.stat().st_size for path in paths)
    say(f"{count(len(paths), 'file')}, {size(total)}, every SHA-256 as it should be.")
    click.echo(folder)


def _print_states(jobs: "list[Job]", *, as_json: bool) -> None:
    from luthier.client.values import to_json

    if as_json:
        print_json(to_json(jobs))
        return
    for job in jobs:
        click.echo(f"{job.id} {job.state}")


def _row(job: "Job") -> tuple[object, ...]:
    waits = job.queue_position is not None
    progress = f"#{job.queue_position}" if waits else _progress(job.progress)
    return job.id, job.state, job.task, progress, age(job.created_at), job.name


def _progress(progress: "JobProgress | None") -> str | None:
    return f"{progress.step}/{progress.max_steps}" if progress else None


def _fields(job: "Job") -> Iterator[tuple[str, object]]:
    yield "id", job.id
    yield "name", job.name
    yield "state", job.state
    yield "phase", job.phase
    yield "queue position", job.queue_position
    if job.start_estimate_seconds is not None:
        yield "starts in about", duration(job.start_estimate_seconds)
    yield "task", job.task
    yield "model", job.model
    yield "parent", job.parent_id
    yield "sweep", job.sweep_id
    yield "notes", job.notes
    yield "labels", ", ".join(f"{key}={value}" for key, value in job.labels.items())
    yield "priority", job.priority or None
    yield "progress", _progress(job.progress)
    if job.progress is not None and job.progress.loss is not None:
        yield "loss", number(job.progress.loss)
    for split, metrics in job.latest_metrics.items():
        yield split, pairs(metrics)
    if job.best is not None:
        yield "best", f"step {job.best.step}: {pairs(job.best.metrics)}"
    yield "created", moment(job.created_at)
    yield "started", moment(job.started_at)
    yield "finished", moment(job.finished_at)
    for attempt in job.attempts:
        steps = f"steps {attempt.first_step} to {attempt.last_step}, " if attempt.last_step else ""
        yield f"attempt {attempt.number}", f"{steps}{attempt.reason or 'running'}"
    for push in job.pushes:
        yield f"push {push.number}", push_line(push)
    for artifact in job.artifacts:
        yield "file", f"{artifact.path} ({size(artifact.size_bytes)})"
