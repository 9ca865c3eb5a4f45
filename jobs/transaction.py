"""One transaction, and what is to be told once it is committed.

Others are told after the commit and never before; that Redis is down is no reason to fail, since
the database is the record: the sweeper rings again, and watchers read the events from it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import Connection, Engine

from jobs.records import StoredEvent
from trainer_core.failpoints import failpoint


@dataclass(slots=True)
class Transaction:
    """An open transaction."""

    connection: Connection
    events: list[StoredEvent] = field(default_factory=list)  # to publish after the commit
    bells: list[str] = field(default_factory=list)  # job ids to ring for after the commit


@dataclass(frozen=True, slots=True)
class Database:
    """Opens transactions, and tells others what was committed."""

    engine: Engine
    publish: Callable[[list[StoredEvent]], None]
    ring: Callable[[list[str]], None]

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Commit on leaving, roll back on an error; then publish and ring."""
        with self.engine.begin() as connection:
            open_transaction = Transaction(connection)
            yield open_transaction
        if open_transaction.bells:
            failpoint("job.committed")
        if open_transaction.events:
            self.publish(open_transaction.events)
        if open_transaction.bells:
            self.ring(open_transaction.bells)
