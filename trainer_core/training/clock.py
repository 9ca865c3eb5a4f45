"""How long each phase of a run takes."""

import time
from dataclasses import dataclass, field

from trainer_core.events import Phase, PhaseEntered, Reporter


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
