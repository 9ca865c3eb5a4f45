"""`python -m tests.drills [ID...]`: run the drills of the fault plan and tell how they went.

Without ids all rows are run, in full. Failures are told with the seed of the trial.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import start_fork_server
from tests.drills.groups import all_drills, in_order_of_running
from tests.drills.lanes import Lane, Order, Row, run_in_lanes, serve
from tests.drills.plan import Drill, Report
from tests.drills.records import keep, keep_missing, write_page
from tests.drills.site import Site, open_site
from tests.drills.work import set_up


def main() -> int:
    """Run what is asked for; 1 if a trial failed."""
    options = _options()
    if options.lane:
        with own_site() as (site, known):
            serve(site, known, orders=sys.stdin)
        return 0
    failed = False if options.only_write else _run(options)
    if options.write:
        write_page(options.record, options.write)
    return int(failed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.drills", description=__doc__)
    parser.add_argument("ids", nargs="*", metavar="ID")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trials", type=int, help="of each row; default: as the plan says")
    parser.add_argument("--quick", action="store_true", help="as many as `make test` runs")
    parser.add_argument("--lanes", type=int, default=1, help="rows that are run at once")
    parser.add_argument("--minutes", type=float, help="begin no trial after so long")
    parser.add_argument("--row-minutes", type=float, help="the same, of each row")
    parser.add_argument("--record", type=Path, default=Path("drills.jsonl"), help="is added to")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="make a page of the record")
    parser.add_argument("--only-write", action="store_true", help="and run nothing")
    parser.add_argument("--lane", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _run(options: argparse.Namespace) -> bool:
    """Run rows, tell and record each; return whether a trial failed."""
    began = time.monotonic()
    lanes = [Lane() for _ in range(options.lanes)]
    rows = {row.id: row for row in lanes[0].rows}
    keep_missing((Report(**row.blank) for row in rows.values()), options.record)
    reports: list[Report] = []

    def order(row: Row) -> Order:
        limits = [60 * minutes for minutes in (options.row_minutes,) if minutes]
        if options.minutes:
            limits.append(max(0.0, began + 60 * options.minutes - time.monotonic()))
        num_trials = options.trials or (row.quick if options.quick else None)
        return Order(row.id, options.seed, num_trials, min(limits, default=None))

    def tell(report: Report) -> None:
        reports.append(report)
        keep(report, options.record)
        for line in report.lines:
            sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    wanted = options.ids or in_order_of_running(list(rows))
    run_in_lanes(lanes, [rows[id_] for id_ in wanted], order=order, tell=tell)
    for lane in lanes:
        lane.close()
    return any(report.failures for report in reports)


@contextmanager
def own_site() -> Iterator[tuple[Site, list[Drill]]]:
    """Give a site with a fork server of its own."""
    with (
        tempfile.TemporaryDirectory() as folder,
        start_fork_server(Path(folder) / "socket"),
        ready_site(Path(folder) / "socket") as found,
    ):
        yield found


@contextmanager
def ready_site(fork_server: Path) -> Iterator[tuple[Site, list[Drill]]]:
    """Give a site that is set up, with its API running, and the drills for it."""
    with (
        tempfile.TemporaryDirectory(prefix="luthier-drills-", dir="/tmp") as folder,
        open_site(Path(folder), fork_server=fork_server) as site,
    ):
        site.start_api()
        yield site, all_drills(set_up(site))


if __name__ == "__main__":
    sys.exit(main())
