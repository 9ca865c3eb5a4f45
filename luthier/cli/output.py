"""What commands print: data on stdout, talk on stderr, and how figures read."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def print_json(value: Any) -> None:
    """Print one JSON document, for programs."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def print_json_line(value: Any) -> None:
    """Print one JSON value of a stream, on a line of its own."""
    click.echo(json.dumps(value, ensure_ascii=False))


def say(text: str) -> None:
    """Tell a person something, on stderr."""
    click.echo(text, err=True)


def suggest(*commands: str) -> None:
    """Name the commands that may come next."""
    say(click.style("next: ", dim=True) + click.style(" · ".join(commands), dim=True))


def clean(text: str) -> str:
    """Return text of elsewhere with what would steer a terminal made visible."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def print_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows in columns, with a line of headers, for people and for awk."""
    lines = [list(headers), *([clean(_cell(value)) for value in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    for line in lines:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def print_fields(fields: Sequence[tuple[str, object]]) -> None:
    """Print names and values, one a line; what has no value is left out."""
    shown = [(name, value) for name, value in fields if value not in (None, "", {}, ())]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        click.echo(f"{name.ljust(width)}  {clean(_cell(value))}")


def pairs(metrics: Mapping[str, Any] | None) -> str:
    """Return metrics as `name value` pairs, the loss last; the database keeps no order."""
    ordered = sorted((metrics or {}).items(), key=lambda item: item[0] == "loss")
    return ", ".join(f"{name} {number(value)}" for name, value in ordered)


def count(amount: int, noun: str) -> str:
    """Return a number of things."""
    return f"{amount} {noun}" if amount == 1 else f"{amount} {noun}s"


def number(value: object) -> str:
    """Return a figure with the four digits that matter."""
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.4g}"
    return f"{int(value)}" if isinstance(value, float) else str(value)


def size(num_bytes: int) -> str:
    """Return a number of bytes as people read it."""
    amount = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def duration(seconds: float) -> str:
    """Return a time span as people read it."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole // 60 % 60:02} min"
    return f"{whole // 86400} d"


def age(moment: datetime) -> str:
    """Return how long ago something was."""
    return duration((datetime.now(UTC) - moment).total_seconds())


def moment(value: datetime | None) -> str | None:
    """Return a point in time, to the second, in this machine's time zone."""
    return value.astimezone().isoformat(sep=" ", timespec="seconds") if value else None


def _cell(value: object) -> str:
    return "-" if value is None or value == "" else str(value)
