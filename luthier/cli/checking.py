"""`luthier datasets check`: whether a file of rows suits a task, without a service."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from luthier.cli.command import Command, json_option, parse_labels
from luthier.cli.outcomes import ExitCode, end, report
from luthier.cli.output import clean, count, print_fields, print_json, say, suggest

if TYPE_CHECKING:
    from trainer_core.rows.examining import Examination

_Rows = click.Path(exists=True, dir_okay=False, path_type=Path)
_SHOWN_LABELS = 20


@click.command(
    cls=Command,
    examples=[
        "luthier datasets check train.csv --task text-classification",
        "luthier datasets check train.csv --task text-classification --column label=intent",
        "luthier datasets check train.jsonl --eval eval.jsonl --task causal-lm --json",
    ],
    short_help="Check a file for a task, here.",
)
@click.argument("file", type=_Rows)
@click.option("--task", required=True, help="What is to be trained; `luthier tasks` lists them.")
@click.option("--eval", "eval_", type=_Rows, metavar="PATH", help="Rows to measure on.")
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="ROLE=COLUMN",
    callback=parse_labels,
    help="Which column plays a role. Repeatable.",
)
@click.option("--no-header", is_flag=True, help="The first line of a CSV or TSV file is a row.")
@json_option
def check(
    *,
    file: Path,
    task: str,
    eval_: Path | None,
    columns: Mapping[str, str],
    no_header: bool,
    as_json: bool,
) -> None:
    """Say everything that is wrong with the rows of FILE for a task. No service is needed."""
    from trainer_core.rows.examining import examine
    from trainer_core.rows.files import InputFile
    from trainer_core.spec import parse_spec

    data: dict[str, Any] = {"train": "dataset:ds_00000000", "columns": dict(columns)}
    given = {"train": file} | ({"eval": eval_} if eval_ else {})
    if eval_:
        data["eval"] = "dataset:ds_00000001"
    spec = parse_spec({"task": task, "model": "model:any", "data": data})
    files = {s: InputFile(p, p.name, has_header=not no_header) for s, p in given.items()}
    found = examine(spec, files)
    if as_json:
        print_json(_as_json(found))
    else:
        _show(found)
    if found.problems:
        end(ExitCode.FAILED)
    if not as_json:
        suggest(f"luthier datasets add {file}")


def _as_json(found: "Examination") -> dict[str, Any]:
    from dataclasses import asdict

    rows, repetition = found.found, found.repetition
    return {
        "is_valid": not found.problems,
        "errors": [problem.to_typed().to_dict() for problem in found.problems],
        "num_rows": dict(rows.num_rows) if rows else None,
        "num_skipped": rows.num_skipped if rows else None,
        "labels": {split: dict(n) for split, n in rows.class_counts.items()} if rows else None,
        "repetition": asdict(repetition) if repetition else None,
    }


def _show(found: "Examination") -> None:
    for problem in found.problems:
        report(problem)
    rows, repetition = found.found, found.repetition
    if rows is None or repetition is None:
        return
    fields: list[tuple[str, object]] = [
        ("rows", ", ".join(f"{split} {number}" for split, number in rows.num_rows.items())),
        ("columns", ", ".join(f"{r}={c}" for r, c in rows.spec.columns.mapped().items())),
    ]
    if rows.classes:
        counts = rows.class_counts["train"]
        shown = ", ".join(f"{clean(c)} {counts[c]}" for c in rows.classes[:_SHOWN_LABELS])
        more = len(rows.classes) - _SHOWN_LABELS
        fields.append(("labels", shown + (f" and {more} more" if more > 0 else "")))
    for name, numbers in (
        ("repeated", repetition.num_duplicates),
        ("contradict", repetition.num_contradictions),
        ("in train, too", repetition.num_overlapping),
    ):
        if any(numbers.values()):
            fields.append((name, ", ".join(f"{s} {n}" for s, n in numbers.items() if n)))
    print_fields(fields)
    for twin in repetition.twins:
        say(clean(f"  {twin.file}:{twin.line}: as {twin.earlier_file}:{twin.earlier_line}"))
    if not found.problems:
        say(f"{count(sum(rows.num_rows.values()), 'row')} can be trained on.")
