"""What the operator's commands share: they work on the database, not through the API."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from jobs.transaction import Transaction

home_option = click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="The service's home, without LUTHIER_DATABASE_URL. Default LUTHIER_HOME, else ~/.luthier.",
)
project_option = click.option(
    "--project", default="default", show_default=True, metavar="NAME", help="Of this project."
)

QUOTAS = (
    ("max-queued-jobs", int, "Jobs that may wait."),
    ("max-running-jobs", int, "Jobs that may run at once."),
    ("max-device-hours", float, "Hours of devices in a calendar month."),
    ("max-storage-bytes", int, "Bytes of data sets and models."),
)


class _Limit(click.ParamType[float | str]):
    """A number, or `none` for no limit."""

    name = "N|none"

    def __init__(self, kind: type[int] | type[float]) -> None:
        self._kind = kind

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | str:
        if value == "none":
            return "none"
        try:
            number = self._kind(value)
        except ValueError:
            number = -1
        if number < 0:
            self.fail(f"'{value}' is no number from 0 on, nor 'none'", param, ctx)
        return number


def quota_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command an option a quota."""
    for name, kind, text in reversed(QUOTAS):
        command = click.option(f"--{name}", type=_Limit(kind), help=text)(command)
    return command


def given_quotas(values: dict[str, Any]) -> dict[str, float | None]:
    """Return the quotas that were given, `none` as None."""
    return {
        name: None if value == "none" else value
        for name, value in values.items()
        if value is not None
    }


@contextmanager
def transaction(home: Path | None) -> "Iterator[Transaction]":
    """Open a transaction on the service's database."""
    from jobs.settings import load_settings
    from luthier.operating import transaction as open_transaction

    settings = load_settings(**({} if home is None else {"home": home}))
    with open_transaction(settings) as tx:
        yield tx


def to_json(record: Any) -> dict[str, Any]:
    """Return a record as JSON-ready values."""
    return {
        name: value.isoformat() if hasattr(value, "isoformat") else value
        for name, value in asdict(record).items()
    }
