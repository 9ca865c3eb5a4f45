"""What a drill is, and how many are run and told."""

import random
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx
from sqlalchemy.exc import DBAPIError

from tests.drills import invariants
from tests.drills.site import Site, TooSlow

ALL = 100_000
"""For a drill that has a trial for every case, whose number is known once a run was looked at."""
_TIDY_EVERY = 20  # trials


@dataclass(frozen=True, slots=True)
class Counted:
    """How a trial went in which more than one thing was borne."""

    number: int
    seconds: float | None = None


class Exhausted(Exception):
    """Every case of a drill has had its trial."""


@dataclass(frozen=True, slots=True)
class Drill:
    """One row of the fault plan."""

    id: str
    fault: str
    expected: str
    trial: Callable[[Site, random.Random], float | Counted | None]
    """Does the fault and raises AssertionError if the service did not bear it. Returns the
    seconds that count, such as those to recover; None for those of the whole trial."""
    full: int  # how many of its unit in a full run
    quick: int = 1  # trials in a quick one
    unit: str = "trials"
    per_trial: int = 1  # of the unit, about
    is_alone: bool = False  # it measures: nothing else may run
    obstacle: str | None = None  # why it can't be run here


def not_run(id_: str, fault: str, reason: str) -> Drill:
    """Return a row of the plan that is named, and has no trial."""

    def trial(_: Site, __: random.Random) -> None:
        raise AssertionError(reason)

    return Drill(id_, fault, "", trial, 0, obstacle=reason)


@dataclass(slots=True)
class Report:
    """How a drill went."""

    id: str
    fault: str
    expected: str
    unit: str
    seed: int
    planned: int
    num_passed: int = 0  # of the unit
    num_failed: int = 0
    num_trials: int = 0
    worst_seconds: float | None = None
    took_seconds: float = 0.0
    failures: list[str] = field(default_factory=list)  # with the seed of each
    num_late: int = 0  # of the failures: a limit of time was passed, and that is all
    obstacle: str | None = None

    @property
    def lines(self) -> list[str]:
        """One line: id, fault, what is expected, seed, N, passed, worst time; then the failures."""
        begin = f"{self.id:4} {self.fault:50}"
        if self.obstacle:
            return [f"{begin} not run: {self.obstacle}"]
        planned = "all" if self.planned == ALL else self.planned
        if not self.num_trials and not self.failures:
            return [f"{begin} not run yet; the plan: {planned} {self.unit}"]
        num_run = self.num_passed + self.num_failed
        worst = "-" if self.worst_seconds is None else f"{self.worst_seconds:.1f} s"
        short = f"  (the plan: {planned})" if num_run < self.planned else ""
        line = (
            f"{begin} {self.expected:31} seed {self.seed}  N {num_run:<5} {self.unit:11} "
            f"passed {self.num_passed:<5} worst {worst}{short}"
        )
        return [line, *(f"     {failure}" for failure in self.failures)]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return asdict(self)

    @classmethod
    def of(cls, drill: Drill, *, seed: int) -> "Report":
        """Return the report of a drill that has not begun."""
        return cls(
            drill.id, drill.fault, drill.expected, drill.unit, seed, drill.full,
            obstacle=drill.obstacle,
        )  # fmt: skip


def carry_out(
    drill: Drill,
    site: Site,
    *,
    seed: int,
    num_trials: int | None = None,
    max_seconds: float | None = None,
) -> Report:
    """Repeat a drill, each trial with a seed of its own; the invariants are checked after each.

    Args:
        drill: which.
        site: where; it is mended after a failure, so that others can go on.
        seed: of the first trial.
        num_trials: how many; as many as make up the plan's figure without it.
        max_seconds: no trial is begun after so long.
    """
    report = Report.of(drill, seed=seed)
    started = time.monotonic()
    site.kill_workers()  # those of the row before may have been told to fail
    while not _is_enough(report, num_trials):
        if max_seconds is not None and time.monotonic() - started > max_seconds:
            break
        own_seed = seed * 1_000_003 + report.num_trials
        try:
            _try_once(drill, site, report, seed=own_seed)
        except Exhausted:
            report.planned = report.num_passed + report.num_failed
            break
        if report.num_trials % _TIDY_EVERY == 0:
            site.forget_ended()
    site.forget_ended()
    report.took_seconds = time.monotonic() - started
    return report


def _is_enough(report: Report, num_trials: int | None) -> bool:
    if report.obstacle:
        return True
    if num_trials is not None:
        return report.num_trials >= num_trials
    return report.num_passed + report.num_failed >= report.planned


def _try_once(drill: Drill, site: Site, report: Report, *, seed: int) -> None:
    started = time.monotonic()
    try:
        result = drill.trial(site, random.Random(seed))
        invariants.check(site)
    except Exhausted:
        raise
    except Exception as error:  # noqa: BLE001 - every kind is a failed trial
        where = traceback.extract_tb(error.__traceback__)[-1]
        told = " ".join(_words_of(error).split())[:1000]
        report.failures.append(f"{drill.id} seed {seed}: {told} ({where.name})")
        report.num_late += _is_late(error, site)
        report.num_failed += drill.per_trial
        site.mend()
    else:
        counted = result if isinstance(result, Counted) else Counted(1, result)
        took = time.monotonic() - started if counted.seconds is None else counted.seconds
        report.worst_seconds = max(took, report.worst_seconds or 0.0)
        report.num_passed += counted.number
    report.num_trials += 1


def _is_late(error: Exception, site: Site) -> bool:
    """Return whether a trial took too long, and what there is by then is in order."""
    if not isinstance(error, TooSlow | httpx.TimeoutException):
        return False
    with suppress(DBAPIError):
        return not any(invariants.in_database(site.backends.engine))
    return True


def _words_of(error: Exception) -> str:
    inner = error.exceptions if isinstance(error, ExceptionGroup) else ()
    return "; ".join([f"{type(error).__name__}: {error}", *map(_words_of, inner)])


def find(drills: Sequence[Drill], ids: Sequence[str]) -> list[Drill]:
    """Return the drills of these ids, all without any; KeyError for one that is unknown."""
    known = {drill.id: drill for drill in drills}
    return [known[id_] for id_ in ids] if ids else list(drills)
