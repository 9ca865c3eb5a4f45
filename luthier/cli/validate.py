"""`luthier validate` and `luthier estimate`: what a job would do, before it is queued."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from luthier.cli import spec_file
from luthier.cli.command import Command, json_option, open_client
from luthier.cli.datasets import upload
from luthier.cli.outcomes import ExitCode, described, end
from luthier.cli.output import (
    clean,
    duration,
    print_fields,
    print_json,
    print_table,
    say,
    size,
    suggest,
)
from trainer_core.errors import FieldProblem

if TYPE_CHECKING:
    from luthier.client import Client, Validation

_Rows = click.Path(exists=True, dir_okay=False, path_type=Path)
_SHOWN_LABELS = 20
_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


def _of_a_spec(command: _Decorated) -> _Decorated:
    """Give a command the argument and the options that say which job is meant."""
    for decorate in reversed((
        click.argument("file", metavar="FILE|-"),
        click.option("--set", "settings", multiple=True, metavar="PATH=VALUE",
                     help="Set a field of the spec; VALUE is JSON, or else text. Repeatable."),
        click.option("--train", type=_Rows, metavar="PATH", help="Rows in place of data.train."),
        click.option("--eval", "eval_", type=_Rows, metavar="PATH",
                     help="Rows in place of data.eval."),
        click.option("--test", type=_Rows, metavar="PATH", help="Rows in place of data.test."),
        json_option,
    )):  # fmt: skip
        command = decorate(command)
    return command


@click.command(
    cls=Command,
    examples=[
        "luthier validate job.json",
        "luthier validate job.json --train train.csv --eval eval.csv",
        "luthier tasks text-classification --example | luthier validate - --train train.csv",
    ],
    short_help="Say what is wrong with a job.",
)
@_of_a_spec
def validate(*, as_json: bool, **given: Any) -> None:
    """Say everything that is wrong with the job in FILE, and what it would do; queue nothing.

    Files that are given are uploaded for as long as it takes. The exit code is 1 if something is
    wrong.
    """
    found = _validated(**given)
    if as_json:
        _print_json(found)
    else:
        _show_problems(found)
        _show_rows(found)
        _show_tokens(found)
        _show_estimates(found)
    if not found.is_valid:
        end(ExitCode.FAILED)
    if not as_json:
        suggest(f"luthier submit {given['file']}")


@click.command(
    cls=Command,
    examples=[
        "luthier estimate job.json",
        "luthier estimate job.json --train train.csv --set training.batch_size=64",
    ],
    short_help="Say what a job would take.",
)
@_of_a_spec
def estimate(*, as_json: bool, **given: Any) -> None:
    """Say how many steps, how much memory, disk and time the job in FILE would take, and where."""
    found = _validated(**given)
    if as_json:
        _print_json(found)
    else:
        _show_problems(found)
        _show_estimates(found)
    if not found.is_valid:
        end(ExitCode.FAILED)


def _validated(
    *,
    file: str,
    settings: tuple[str, ...],
    train: Path | None,
    eval_: Path | None,
    test: Path | None,
) -> "Validation":
    spec = spec_file.with_settings(spec_file.read_spec(file), settings)
    given = {"train": train, "eval": eval_, "test": test}
    with open_client() as client:
        files = {split: path for split, path in given.items() if path}
        with _uploaded(client, files) as references:
            return client.jobs.validate(spec_file.with_settings(spec, references))


@contextmanager
def _uploaded(client: "Client", files: Mapping[str, Path]) -> Iterator[list[str]]:
    """Upload files for a while, and give the settings that refer to them."""
    ids: dict[str, str] = {}
    try:
        for split, path in files.items():
            ids[split] = upload(client, path, has_header=True).id
        yield [f"data.{split}=dataset:{dataset_id}" for split, dataset_id in ids.items()]
    finally:
        for dataset_id in ids.values():
            client.datasets.delete(dataset_id)


def _print_json(found: "Validation") -> None:
    from luthier.client.values import to_json

    print_json(to_json(found))


def _show_problems(found: "Validation") -> None:
    for error in found.errors:
        fields = tuple(FieldProblem(**one) for one in error.detail.get("errors") or ())
        for line in described(error.message, hint=error.hint, detail=error.detail, errors=fields):
            say(line)
    for warning in found.warnings:
        say(
            click.style("warning: ", fg="yellow") + clean(f"{warning['message']} {warning['hint']}")
        )
    for gap in found.missing:
        say(clean(f"not known: {gap['what']}: {gap['why']}."))


def _show_rows(found: "Validation") -> None:
    rows = found.rows
    if rows is None:
        return
    labels = rows["labels"][:_SHOWN_LABELS]
    more = rows["num_labels"] - len(labels)
    shown = ", ".join(f"{label['label']} {label['num_rows'].get('train', 0)}" for label in labels)
    print_fields(
        [
            ("rows", ", ".join(f"{split} {n}" for split, n in rows["num_rows"].items() if n)),
            ("columns", ", ".join(f"{r}={c}" for r, c in rows["columns"].items())),
            ("labels", shown + (f" and {more} more" if more else "")),
        ]
    )


def _show_tokens(found: "Validation") -> None:
    if found.tokens:
        names = list(next(iter(found.tokens.values()))["percentiles"])
        print_table(
            ("TOKENS", *(name.upper() for name in names), "CUT", "NOTHING TO LEARN"),
            [
                (
                    split,
                    *(tokens["percentiles"].get(name) for name in names),
                    f"{tokens['share_truncated']:.1%}",
                    f"{tokens['share_without_targets']:.1%}",
                )
                for split, tokens in found.tokens.items()
            ],
        )
    for number, example in enumerate(found.examples, start=1):
        parts = (
            click.style(clean(part["text"]), fg="green" if part["is_learnt"] else None)
            for part in example["segments"]
        )
        target = f" -> {clean(example['target'])}" if example["target"] else ""
        click.echo(f"{number}. {' '.join(parts)}{target}")


def _show_estimates(found: "Validation") -> None:
    for one in found.estimates:
        if one["error"]:
            say(clean(f"{one['device']['name']}: {one['error']['message']}"))
    known = [one for one in found.estimates if one["memory_bytes"]]
    if known:
        print_table(
            ("DEVICE", "STEPS", "MEMORY", "FROM", "TO", "DISK", "TIME"),
            [_estimated(one) for one in known],
        )
    if found.workers:
        print_table(
            ("WORKER", "DEVICE", "FITS"),
            [(one["worker"], one["device"], one["verdict"]) for one in found.workers],
        )


def _estimated(one: Mapping[str, Any]) -> tuple[object, ...]:
    memory, seconds = one["memory_bytes"], one["seconds"]
    return (
        f"{one['device']['kind']} {one['device']['name']}",
        one["num_steps"],
        *(size(round(memory[name])) for name in ("expected", "low", "high")),
        size(one["disk_bytes"]),
        f"{duration(seconds['low'])} to {duration(seconds['high'])}" if seconds else None,
    )
