"""Events as lines for a person: what `log.txt` and a terminal show."""

from collections.abc import Mapping
from typing import TextIO, assert_never

from trainer_core.events import (
    CheckpointSaved,
    Event,
    Logged,
    MetricsMeasured,
    PhaseEntered,
    Progressed,
    Warned,
)


class LineReporter:
    """Writes a line an event; progress, which comes twice a second, is left out."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._phase = ""

    def report(self, event: Event) -> None:
        if isinstance(event, PhaseEntered):  # a long one is told again and again, with its share
            if event.phase == self._phase:
                return
            self._phase = event.phase
        if line := describe(event):
            self._file.write(f"{line}\n")
            self._file.flush()


def describe(event: Event) -> str:
    """Return an event as one line, or nothing if it is not worth one."""
    match event:
        case PhaseEntered():
            return f"{event.phase}"
        case Progressed():
            return ""
        case MetricsMeasured():
            return f"step {event.step}, {event.split}: {_figures(event.metrics)}"
        case CheckpointSaved():
            return f"step {event.step}, saved {event.path}{' (best)' if event.is_best else ''}"
        case Logged():
            return event.message
        case Warned():
            return f"warning: {event.message} {event.hint}".rstrip()
    assert_never(event)


def _figures(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
