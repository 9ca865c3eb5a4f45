"""How a running job looks: a live bar on a terminal, plain lines anywhere else. All on stderr."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from luthier.cli.outcomes import described
from luthier.cli.output import clean, duration, number, pairs, say

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from luthier.client import Event, Job

_SHARES = 10  # plain lines tell progress so many times a run
_BAR_METRICS = 2  # figures beside the bar; all of them are in the line above it


class Display(Protocol):
    """Something that shows a job's events."""

    def show(self, event: "Event") -> None:
        """Show one event."""


@contextmanager
def display_for(job: "Job") -> Iterator[Display]:
    """Give the display that suits stderr."""
    if not (sys.stderr.isatty() and os.environ.get("TERM") != "dumb"):
        yield PlainLines()
        return
    with _bar() as progress:
        yield LiveBar(progress, job)


class PlainLines:
    """Prints a line an event, and progress at every tenth of the run.

    Training figures come too often for lines; those of the evaluations are what one scrolls for.
    """

    def __init__(self) -> None:
        self._share = -1
        self._phase: str | None = None

    def show(self, event: "Event") -> None:
        data = event.data
        if event.type == "phase":  # a long one is told again and again, with its share
            if data.get("phase") == self._phase:
                return
            self._phase = data.get("phase")
        if event.type == "progress":
            share = data["step"] * _SHARES // max(1, data["max_steps"])
            if share == self._share:
                return
            self._share = share
        if event.type == "metrics" and data.get("split") == "train":
            return
        if line := _sentence(event.type, data):
            say(line)


class LiveBar:
    """Keeps one bar up to date, and prints what is worth keeping above it."""

    def __init__(self, progress: "Progress", job: "Job") -> None:
        self._progress = progress
        self._bar: TaskID = progress.add_task(
            job.phase or job.state, total=None, loss="", metrics="", eta=""
        )

    def show(self, event: "Event") -> None:
        data = event.data
        match event.type:
            case "state":
                self._progress.update(self._bar, description=clean(str(data.get("state"))), eta="")
            case "phase":
                self._progress.update(self._bar, description=clean(str(data.get("phase"))))
            case "progress":
                self._advance(data)
            case "metrics" if data.get("split") != "train":
                self._progress.update(self._bar, metrics=clean(_first_figures(data)))
                self._print(event)
            case "log" | "warning" | "error" | "checkpoint":
                self._print(event)

    def _advance(self, data: Mapping[str, Any]) -> None:
        loss, eta = data.get("loss"), data.get("eta_seconds")
        self._progress.update(
            self._bar,
            completed=data["step"],
            total=data["max_steps"],
            loss="" if loss is None else f"loss {number(loss)}",
            eta="" if eta is None else f"{duration(eta)} left",
        )

    def _print(self, event: "Event") -> None:
        from rich.text import Text

        if line := _sentence(event.type, event.data):
            self._progress.console.print(Text(line), soft_wrap=True)


def _first_figures(data: Mapping[str, Any]) -> str:
    figures = pairs(data.get("metrics")).split(", ")[:_BAR_METRICS]
    return f"{data.get('split')} {', '.join(figures)}"


def _bar() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description:<11}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}", markup=False),
        TextColumn("{task.fields[metrics]}", markup=False, style="cyan"),
        TextColumn("{task.fields[eta]}", markup=False, style="dim"),
        console=Console(stderr=True),
    )


def log_line(event: "Event") -> str:
    """Return a log entry as the service's own log route writes it."""
    words = (str(event.data.get(name) or "") for name in ("message", "hint"))
    message = " ".join(word for word in words if word)
    line = clean(f"{event.at.isoformat()} {event.type.upper()} {message}")
    return line.replace("\n", "\\x0a")


def outcome_lines(job: "Job") -> Iterator[str]:
    """Yield the lines that tell how a job has ended."""
    took = ""
    if job.started_at and job.finished_at:
        took = f" after {duration((job.finished_at - job.started_at).total_seconds())}"
    figures = f": {clean(pairs(job.best.metrics))}" if job.best else ""
    yield f"{job.id} {job.state}{took}{figures}"
    if job.error is not None:
        yield from described(job.error.message, hint=job.error.hint, detail=job.error.detail)


def _sentence(kind: str, data: Mapping[str, Any]) -> str:
    match kind:
        case "state":
            reason = f" ({data['reason']})" if data.get("reason") else ""
            text = f"{data.get('state')}{reason}"
        case "phase":
            text = f"{data.get('phase')}"
        case "progress":
            loss = "" if data.get("loss") is None else f", loss {number(data['loss'])}"
            eta = data.get("eta_seconds")
            left = "" if eta is None else f", {duration(eta)} left"
            text = f"step {data['step']}/{data['max_steps']}{loss}{left}"
        case "metrics":
            text = f"{data.get('split')} at step {data.get('step')}: {pairs(data.get('metrics'))}"
        case "checkpoint":
            best = ", the best so far" if data.get("is_best") else ""
            text = f"checkpoint at step {data.get('step')}{best}"
        case "log":
            text = str(data.get("message", ""))
        case "warning" | "error":
            hint = f" {data['hint']}" if data.get("hint") else ""
            text = f"{kind}: {data.get('message', '')}{hint}"
        case _:
            text = ""
    return clean(text)
