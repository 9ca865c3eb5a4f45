"""`python -m tests.drills [ID...] [--seed N] [--trials N] [--quick]`: run drills and tell them.

Without ids all are run, in full. Failures are told with the seed of the trial; `--seed` repeats.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import start_fork_server
from tests.drills import cancels, checkpoints, servers, streams, workers
from tests.drills.plan import Drill, Report, carry_out, find
from tests.drills.site import Site, open_site
from tests.drills.work import set_up


def main() -> int:
    """Run what is asked for; 1 if a trial failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.drills", description=__doc__)
    parser.add_argument("ids", nargs="*", metavar="ID")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trials", type=int, help="of each; default: as many as the plan says")
    parser.add_argument("--quick", action="store_true", help="as many as `make test` runs")
    options = parser.parse_args()

    def num_trials(drill: Drill) -> int:
        return options.trials or (drill.quick if options.quick else drill.full)

    with (
        tempfile.TemporaryDirectory() as folder,
        start_fork_server(Path(folder) / "socket"),
        ready_site(Path(folder) / "socket") as (site, known),
    ):
        wanted = find(known, options.ids)
        reports = run(wanted, site, seed=options.seed, num_trials=num_trials)
    return int(any(report.failures for report in reports))


@contextmanager
def ready_site(fork_server: Path) -> Iterator[tuple[Site, list[Drill]]]:
    """Give a site that is set up, with its API running, and the drills for it."""
    with (
        tempfile.TemporaryDirectory(prefix="luthier-drills-", dir="/tmp") as folder,
        open_site(Path(folder), fork_server=fork_server) as site,
    ):
        site.start_api()
        work = set_up(site)
        groups = (workers, servers, checkpoints, cancels, streams)
        yield site, [drill for group in groups for drill in group.drills(work)]


def run(
    wanted: list[Drill], site: Site, *, seed: int, num_trials: Callable[[Drill], int]
) -> list[Report]:
    """Run drills one after the other, telling each as it ends."""
    reports = []
    for drill in wanted:
        if drill.obstacle:
            sys.stdout.write(f"{drill.id:4} {drill.fault:48} not run: {drill.obstacle}\n")
            continue
        report = carry_out(drill, site, seed=seed, num_trials=num_trials(drill))
        sys.stdout.write(f"{report.line}\n")
        for failure in report.failures:
            sys.stdout.write(f"     {failure}\n")
        sys.stdout.flush()
        reports.append(report)
    return reports


if __name__ == "__main__":
    sys.exit(main())
