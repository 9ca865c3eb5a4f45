"""All rows of the fault plan's groups K, B, C, D and E."""

from tests.drills import (
    cancels,
    checkpoints,
    clocks,
    crowds,
    deliveries,
    disks,
    faults,
    hooks,
    keys,
    messages,
    outages,
    poison,
    races,
    servers,
    streams,
    workers,
)
from tests.drills.plan import Drill
from tests.drills.work import Work

MAIN = "K1 K2 K6 K14 B1 B2 B4 B5 B11 C1 D3 D6 D7 E1".split()  # noqa: SIM905 - as issues list them
"""The rows to run first."""
_ORDER = "KBCDE"
_GROUPS = (
    workers, poison, servers, messages, outages, races, clocks, checkpoints, disks, deliveries,
    cancels, streams, hooks, crowds, faults, keys,
)  # fmt: skip


def all_drills(work: Work) -> list[Drill]:
    """Return every row, in the plan's order, for a site that is set up."""
    found = [drill for group in _GROUPS for drill in group.drills(work)]
    return sorted(found, key=lambda drill: place_of(drill.id))


def place_of(id_: str) -> tuple[int, int]:
    """Return where a row stands in the plan; one without a number comes last of its group."""
    number = id_[1:]
    return _ORDER.index(id_[0]), int(number) if number.isdecimal() else 1000


def in_order_of_running(ids: list[str]) -> list[str]:
    """Return rows as they are best run: the main ones first."""
    return sorted(ids, key=lambda id_: (id_ not in MAIN, place_of(id_)))
