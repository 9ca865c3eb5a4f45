"""Fewer measurements that draw the same curve: ends, extremes, and peaks of each stretch."""

from collections.abc import Iterable, Mapping
from typing import Any

from jobs.records import StoredEvent

_LEADING = "loss"  # the metric whose peaks are kept, where a split has it; else its first


def downsampled(
    measurements: Iterable[StoredEvent], *, num_rows: Mapping[str, int], max_points: int
) -> list[StoredEvent]:
    """Return up to `max_points` measurements of each split, in order.

    Args:
        measurements: oldest first; looked at once, and few are held at a time.
        num_rows: how many there are of each split.
        max_points: how many to keep of a split, 2 or more.
    """
    thinners = {split: _Thinner(count, max_points) for split, count in num_rows.items()}
    for measurement in measurements:
        thinner = thinners.get(measurement.data["split"])
        if thinner is not None:  # one of a new split came in between
            thinner.add(measurement)
    kept = [measurement for thinner in thinners.values() for measurement in thinner.kept()]
    return sorted(kept, key=lambda measurement: measurement.id)


class _Extremes:
    """The measurements with the least and the greatest value of a metric."""

    def __init__(self) -> None:
        self._least: tuple[float, StoredEvent] | None = None
        self._greatest: tuple[float, StoredEvent] | None = None

    def add(self, value: Any, measurement: StoredEvent) -> None:
        if not isinstance(value, int | float):
            return
        if self._least is None or value < self._least[0]:
            self._least = (value, measurement)
        if self._greatest is None or value > self._greatest[0]:
            self._greatest = (value, measurement)

    def kept(self) -> list[StoredEvent]:
        return [found[1] for found in (self._least, self._greatest) if found is not None]


class _Thinner:
    """Keeps some measurements of one split."""

    def __init__(self, num_rows: int, max_points: int) -> None:
        self._num_rows = num_rows
        self._max_points = max_points
        self._num_seen = 0
        self._all: list[StoredEvent] = []  # where all of them are few enough
        self._ends: list[StoredEvent] = []  # last and first
        self._overall: dict[str, _Extremes] = {}  # by metric, the leading one first
        self._stretches: list[_Extremes] = []

    def add(self, measurement: StoredEvent) -> None:
        if self._num_rows <= self._max_points:
            self._all = [*self._all[-self._max_points + 1 :], measurement]
            return
        values = measurement.data["metrics"]
        if not self._ends:
            self._ends = [measurement, measurement]
            names = sorted(values, key=lambda name: name != _LEADING)
            self._overall = {name: _Extremes() for name in names}
            spare = self._max_points - 2 - 2 * max(0, len(names) - 1)
            self._stretches = [_Extremes() for _ in range(max(0, spare // 2))]
        self._ends[0] = measurement
        for name, extremes in self._overall.items():
            extremes.add(values.get(name), measurement)
        if self._stretches and self._overall:
            place = min(self._num_seen, self._num_rows - 1) * len(self._stretches)
            leading = next(iter(self._overall))
            self._stretches[place // self._num_rows].add(values.get(leading), measurement)
        self._num_seen += 1

    def kept(self) -> list[StoredEvent]:
        if self._all:
            return self._all
        wanted = list(self._ends)
        for extremes in (*self._overall.values(), *self._stretches):
            wanted += extremes.kept()
        return list({measurement.id: measurement for measurement in wanted}.values())[
            : self._max_points
        ]
