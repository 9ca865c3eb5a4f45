"""What was run, kept as lines of JSON, and the page that is made of them."""

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.drills.groups import place_of
from tests.drills.plan import Report

_INTRO = """\
# Drills

Faults done to a running service: real processes, a real PostgreSQL, a real Valkey, real training
of a tiny model. Each row is one fault of the plan, repeated with a seed of its own each time.
After every trial the invariants are checked: one final state a job, events without a gap, attempts
within the cap, no process left over, no half-made file (`tests/drills/invariants.py`). A run that
was disturbed has to end with the same weights, to the last bit, as one that was not.

`make drills` runs all of it and writes this page; nothing here is edited by hand. `make test` runs
one trial of most rows, and a second where one took too long and did nothing wrong.
`.venv/bin/python -m tests.drills K1 --seed 7` repeats one row. *N* is what
was really run, of the unit beside it; where the plan asks for more, the end of the line says so.
*worst* is the longest time that counts: to recover where the row has a limit, else of the whole
trial. The lease is 3 seconds here, where a service has 30, so that many can be lost in an hour.

"""
_EARLIER = """
## Failures before

Runs in which something failed, and after which the row was run again: what is above is of the
latest run alone. Commit, seed, how many failed, and the beginning of the first failure.

"""
_TOLD_CHARACTERS = 160

_Run = dict[str, Any]  # a line of the record


def keep(report: Report, path: Path) -> None:
    """Add how a row went to the record."""
    values = {
        **report.to_dict(),
        "commit": _commit(),
        "at": datetime.now(UTC).isoformat(),
        "load": os.getloadavg()[1],
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def keep_missing(reports: Iterable[Report], path: Path) -> None:
    """Add the rows that the record does not have, so that the page names every one."""
    text = path.read_text("utf-8") if path.exists() else ""
    known = {json.loads(line)["id"] for line in text.splitlines()}
    for report in reports:
        if report.id not in known:
            keep(report, path)


def write_page(record: Path, page: Path) -> None:
    """Make the page of a record: the latest run of each row, and the failures before it."""
    runs: dict[str, list[_Run]] = {}
    for line in record.read_text("utf-8").splitlines():
        values = json.loads(line)
        runs.setdefault(values["id"], []).append(values)
    in_order = [runs[id_] for id_ in sorted(runs, key=place_of)]
    rows = [row[-1] for row in in_order]
    earlier = [run for row in in_order for run in row[:-1] if run["failures"]]
    text = _INTRO + _summary(rows, num_earlier=len(earlier)) + _block(rows) + _failed(earlier)
    page.write_text(text, encoding="utf-8")


def _summary(rows: list[_Run], *, num_earlier: int) -> str:
    run = [row for row in rows if row["num_trials"]]
    times = sorted(row["at"] for row in run)
    commits = ", ".join(f"`{commit}`" for commit in dict.fromkeys(row["commit"] for row in run))
    begin, end = times[0][:16].replace("T", " "), times[-1][:16].replace("T", " ")
    num_failed = sum(bool(row["failures"]) for row in run)
    minutes = sum(row["took_seconds"] for row in run) / 60
    loads = sorted(row["load"] for row in run if "load" in row)
    load = f", under a load of {loads[0]:.0f} to {loads[-1]:.0f}" if loads else ""
    return (
        f"Run from {begin} to {end} UTC, at commit {commits}, on {os.cpu_count()} cores{load} "
        f"({platform.machine()}, Python {platform.python_version()}): {len(run)} of {len(rows)} "
        f"rows run, {num_failed} with a failure, {minutes:.0f} minutes of trials. Earlier runs "
        f"with a failure: {num_earlier}.\n\n"
    )


def _block(rows: list[_Run]) -> str:
    fields = Report.__dataclass_fields__
    lines: list[str] = []
    for row in rows:  # one that was kept by an earlier version lacks the newest of them
        lines += Report(**{name: row[name] for name in fields if name in row}).lines
    return "```\n" + "\n".join(line.rstrip() for line in lines) + "\n```\n"


def _failed(runs: list[_Run]) -> str:
    """Return what went wrong in runs that another of the same row has followed."""
    if not runs:
        return ""
    lines = []
    for run in runs:
        num_run = run["num_passed"] + run["num_failed"]
        share = f"{run['num_failed']} of {num_run} {run['unit']}"
        told = " ".join(run["failures"][0].split())[:_TOLD_CHARACTERS]
        lines.append(f"{run['id']:4} {run['commit']}, seed {run['seed']}, {share}: {told}")
    return _EARLIER + "```\n" + "\n".join(lines) + "\n```\n"


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=8"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
