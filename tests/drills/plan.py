"""What a drill is, and how many are run and told."""

import random
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.drills import invariants
from tests.drills.site import Site


@dataclass(frozen=True, slots=True)
class Drill:
    """One row of the fault plan."""

    id: str
    fault: str
    expected: str
    trial: Callable[[Site, random.Random], float | None]
    """Does the fault once and raises AssertionError if the service did not bear it. Returns the
    seconds that count, such as those to recover; None for those of the whole trial."""
    full: int  # how often in a full run
    quick: int = 1  # in a quick one
    obstacle: str | None = None  # why it can't be run on this machine


@dataclass(slots=True)
class Report:
    """How a drill went."""

    drill: Drill
    seed: int
    seconds: list[float] = field(default_factory=list)  # of trials that passed
    failures: list[str] = field(default_factory=list)  # with the seed of each

    @property
    def line(self) -> str:
        """One line: id, fault, what is expected, seed, N, passed, worst time."""
        num_run = len(self.seconds) + len(self.failures)
        worst = f"{max(self.seconds):.1f} s" if self.seconds else "-"
        return (
            f"{self.drill.id:4} {self.drill.fault:48} {self.drill.expected:30} seed {self.seed}  "
            f"{len(self.seconds)} of {num_run} passed  worst {worst}"
        )


def carry_out(drill: Drill, site: Site, *, seed: int, num_trials: int) -> Report:
    """Repeat a drill, each trial with a seed of its own; the invariants are checked after each."""
    report = Report(drill, seed)
    for number in range(num_trials):
        own_seed = seed * 1_000_003 + number
        started = time.monotonic()
        try:
            seconds = drill.trial(site, random.Random(own_seed))
            invariants.check(site)
        except Exception as error:  # noqa: BLE001 - every kind is a failed trial
            where = traceback.extract_tb(error.__traceback__)[-1]
            report.failures.append(
                f"{drill.id} seed {own_seed}: {type(error).__name__}: {error} ({where.name})"
            )
        else:
            report.seconds.append(time.monotonic() - started if seconds is None else seconds)
    return report


def find(drills: Sequence[Drill], ids: Sequence[str]) -> list[Drill]:
    """Return the drills of these ids, all without any; KeyError for one that is unknown."""
    known = {drill.id: drill for drill in drills}
    return [known[id_] for id_ in ids] if ids else list(drills)
