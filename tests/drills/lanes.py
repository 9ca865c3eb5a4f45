"""Several sites side by side, each in a process of its own that carries out row after row.

    <- LANE [{"id": "K1", "quick": 1, "is_alone": false, "blank": {...}}, ...]
    -> {"id": "K1", "seed": 1, "num_trials": null, "max_seconds": 300}
    <- LANE {...}                     the report

What else a lane prints is passed over.
"""

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TextIO

from tests.drills.plan import Drill, Report, carry_out
from tests.drills.site import Site

_MARK = "LANE "


@dataclass(frozen=True, slots=True)
class Row:
    """What has to be known of a row to order it."""

    id: str
    quick: int
    is_alone: bool
    blank: dict[str, Any]  # its report, before it was run


@dataclass(frozen=True, slots=True)
class Order:
    """A row to carry out."""

    id: str
    seed: int
    num_trials: int | None
    max_seconds: float | None


class Lane:
    """A process with a site."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.drills", "--lane"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._rows: list[Row] | None = None

    @property
    def rows(self) -> list[Row]:
        """What it can carry out; there is an answer once its site is set up."""
        if self._rows is None:
            answer = self._answer()
            assert answer is not None, "no site could be set up"
            self._rows = [Row(**row) for row in answer]
        return self._rows

    def carry_out(self, order: Order) -> Report:
        """Return how a row went."""
        assert order.id in {row.id for row in self.rows}
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(asdict(order)) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            values = None
        else:
            values = self._answer()
        if values is None:
            died = ["the drill's own process died"]
            return Report(order.id, "", "", "trials", order.seed, 0, failures=died)
        return Report(**values)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """End it in order."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(120)

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(_MARK):
                return json.loads(line.removeprefix(_MARK))
        return None


def run_in_lanes(
    lanes: list[Lane],
    rows: Sequence[Row],
    *,
    order: Callable[[Row], Order],
    tell: Callable[[Report], None],
) -> None:
    """Carry out rows side by side, each by whichever lane is free; those that measure at the end.

    Args:
        lanes: those there are; one that dies is replaced.
        rows: in the order in which they are begun.
        order: gives a row its order when it is begun.
        tell: called with each report, one at a time.
    """
    together = [row for row in rows if not row.is_alone]
    lock = threading.Lock()

    def work(number: int, waiting: list[Row]) -> None:
        while True:
            with lock:
                if not waiting:
                    return
                row = waiting.pop(0)
            report = lanes[number].carry_out(order(row))
            if not lanes[number].is_alive():
                lanes[number] = Lane()
            with lock:
                tell(report)

    threads = [
        threading.Thread(target=work, args=(number, together)) for number in range(len(lanes))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    work(0, [row for row in rows if row.is_alone])


def serve(site: Site, drills: Sequence[Drill], *, orders: TextIO) -> None:
    """Carry out what is ordered until there are no more orders."""
    logging.getLogger().addHandler(logging.NullHandler())  # faults are what is looked for
    known = {drill.id: drill for drill in drills}
    _say(
        [
            asdict(Row(one.id, one.quick, one.is_alone, Report.of(one, seed=0).to_dict()))
            for one in drills
        ]
    )
    for line in orders:
        order = Order(**json.loads(line))
        report = carry_out(
            known[order.id],
            site,
            seed=order.seed,
            num_trials=order.num_trials,
            max_seconds=order.max_seconds,
        )
        _say(report.to_dict())


def _say(values: object) -> None:
    sys.stdout.write(f"{_MARK}{json.dumps(values)}\n")
    sys.stdout.flush()
