"""`luthier diff`: in what two jobs differ, and how each has done."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from luthier.cli.command import Command, json_option, open_client
from luthier.cli.output import number, print_json, print_table, say, suggest

if TYPE_CHECKING:
    from luthier.client import Job

_Pair = tuple[Any, Any]


@click.command(
    cls=Command,
    examples=["luthier diff job_01k9… job_01ka…", "luthier diff job_01k9… job_01ka… --json | jq ."],
    short_help="Show in what two jobs differ.",
)
@click.argument("left", metavar="A")
@click.argument("right", metavar="B")
@json_option
def diff(*, left: str, right: str, as_json: bool) -> None:
    """Show the fields of the spec in which two jobs differ, and their figures side by side."""
    with open_client() as client:
        jobs = client.jobs.get(left), client.jobs.get(right)
    spec = _different(jobs[0].spec, jobs[1].spec)
    metrics = _both(_figures(jobs[0]), _figures(jobs[1]))
    if as_json:
        print_json(
            {
                "jobs": [job.id for job in jobs],
                "states": [job.state for job in jobs],
                "spec": {field: list(pair) for field, pair in spec.items()},
                "metrics": {name: list(pair) for name, pair in metrics.items()},
            }
        )
        return
    rows: list[tuple[object, ...]] = [("state", jobs[0].state, jobs[1].state)]
    rows += [(field, *map(_shown, pair)) for field, pair in spec.items()]
    rows += [(name, *map(_shown, pair)) for name, pair in metrics.items()]
    print_table(("FIELD", jobs[0].id, jobs[1].id), rows)
    if not spec:
        say("Their specs are the same.")
        return
    suggest(f"luthier clone {jobs[0].id} --set PATH=VALUE")


def _different(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, _Pair]:
    both = _both(dict(_leaves(left)), dict(_leaves(right)))
    return {field: pair for field, pair in both.items() if pair[0] != pair[1]}


def _both(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, _Pair]:
    """Return what both say of each name, in the order of the first."""
    return {name: (left.get(name), right.get(name)) for name in {**left, **right}}


def _leaves(values: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a spec under the paths that `--set` takes."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{place}{name}.")
        else:
            yield f"{place}{name}", value


def _figures(job: "Job") -> dict[str, Any]:
    """Return the figures of the model that is handed out, and the latest ones of each split."""
    figures = {} if job.best is None else {f"best {n}": v for n, v in job.best.metrics.items()}
    for split, metrics in job.latest_metrics.items():
        values = metrics.get("metrics", metrics)
        if isinstance(values, Mapping):
            figures |= {f"{split} {name}": value for name, value in values.items()}
    return figures


def _shown(value: Any) -> str | None:
    return None if value is None else number(value)
