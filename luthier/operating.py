"""The operator's hands on the database itself: the first key must come from somewhere."""

import getpass
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from jobs.database import make_engine
from jobs.scopes import DEFAULT_PROJECT
from jobs.settings import Settings
from jobs.transaction import Database, Transaction
from luthier.embedded import EmbeddedPostgres, Home
from luthier.up import bring_up_to_date
from trainer_core.errors import HomeInUse, ServerFailed


@dataclass(frozen=True, slots=True)
class Operator:
    """Who has the database's password, as the audit log calls them."""

    project: str = DEFAULT_PROJECT
    key_id: str | None = None
    name: str = f"operator {getpass.getuser()}"


@contextmanager
def transaction(settings: Settings) -> Iterator[Transaction]:
    """Open a transaction on the service's database, whose tables are brought up to date first.

    That is the database of LUTHIER_DATABASE_URL, or else that of the home, which is started for so
    long if no `luthier up` has it running.

    Raises:
        ServerFailed: it can't be reached or started.
    """
    with ExitStack() as stack:
        url = settings.database_url or _embedded(settings, stack)
        bring_up_to_date(url)
        engine = make_engine(url)
        stack.callback(engine.dispose)
        database = Database(engine, publish=lambda _events: None, ring=lambda _job_ids: None)
        yield stack.enter_context(database.transaction())


def _embedded(settings: Settings, stack: ExitStack) -> str:
    home = Home(settings.home)
    try:
        stack.enter_context(home.lock())
    except HomeInUse:
        if home.read_record("postgres") is None:
            raise ServerFailed(
                f"the database of {home.path} is being made.", hint="Try again in a few seconds."
            ) from None
        return EmbeddedPostgres(settings.home).url  # that of the `luthier up` that runs
    return stack.enter_context(EmbeddedPostgres(settings.home)).url
