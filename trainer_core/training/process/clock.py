"""How long each phase of a run takes, and how far a long one has come."""

import time
from dataclasses import dataclass, field

from trainer_core.events import Phase, PhaseEntered, Reporter

_SECONDS_BETWEEN_SIGNS = 20.0


@dataclass(slots=True)
class PhaseClock:
    """Reports the phases of a run and measures how long each takes."""

    reporter: Reporter
    seconds: dict[str, float] = field(default_factory=dict)
    _entered: tuple[Phase, float] | None = None

    def enter(self, phase: Phase) -> None:
        self.stop()
        self._entered = (phase, time.monotonic())
        self.reporter.report(PhaseEntered(phase))

    def stop(self) -> None:
        if self._entered:
            phase, since = self._entered
            took = time.monotonic() - since
            self.seconds[phase] = round(self.seconds.get(phase, 0.0) + took, 3)
            self._entered = None


@dataclass(slots=True)
class PhaseProgress:
    """Tells now and then how far a phase has come: a run that says nothing is taken for stalled."""

    reporter: Reporter
    phase: Phase
    total: int  # of whatever is counted
    _told: float = field(default_factory=time.monotonic)

    def tell(self, num_done: int) -> None:
        """Report the share that is done, unless that was done a moment ago."""
        if time.monotonic() - self._told < _SECONDS_BETWEEN_SIGNS:
            return
        self._told = time.monotonic()
        share = min(1.0, num_done / max(1, self.total))
        self.reporter.report(PhaseEntered(self.phase, fraction=share))
