"""What the engine asks of its connections."""

import threading
import time

import psycopg
import pytest
from sqlalchemy import text

from jobs import database
from jobs.store import events
from jobs.store.events import NewEvent
from jobs.transaction import Transaction
from tests.stored import new_job
from trainer_core.events import EventType

pytestmark = pytest.mark.slow


def test_locks_of_a_transaction_that_is_frozen_after_many_rows_are_freed(
    backends, database_url, monkeypatch
):
    monkeypatch.setattr(database, "_IDLE_MILLISECONDS", 300)
    hasty = database.make_engine(database_url)
    with backends.database.transaction() as tx:
        job = new_job(tx)
    said = [NewEvent(EventType.LOG, {"message": "many", "fields": {}})] * 3

    with hasty.connect() as frozen:
        events.append(Transaction(frozen), job.id, said)
        started = time.monotonic()
        with backends.database.transaction() as tx:
            events.append(tx, job.id, said)
        waited = time.monotonic() - started
        frozen.invalidate()
    hasty.dispose()

    assert waited < 4, "the lock was waited for until that was given up"
    with backends.engine.connect() as connection:
        count = text("SELECT count(*) FROM events WHERE type = 'log'")
        assert connection.execute(count).scalar_one() == 3


def test_columns_are_told_as_the_driver_tells_them(backends):
    statement = "SELECT 1 AS a, ARRAY['x'] AS \"b c\", now() AS at"
    with backends.engine.connect() as connection:
        raw = connection.connection.driver_connection
        ours, theirs = raw.cursor(), psycopg.Cursor(raw)
        for cursor in (ours, theirs):
            cursor.execute(statement)
        told, expected = ours.description, theirs.description
        ours.execute("SET lock_timeout = 0")
        none = ours.description

    assert [one[:2] for one in told] == [(one.name, one.type_code) for one in expected]
    assert none is None


def test_migrations_of_another_process_are_waited_for_however_long_they_take(
    database_url, monkeypatch
):
    monkeypatch.setattr(database, "_LOCK_MILLISECONDS", 100)
    other = database.make_engine(database_url)
    with other.connect() as migrating:
        migrating.execute(text("SELECT pg_advisory_lock(:key)"), {"key": database._LOCK})
        migrating.commit()
        late = threading.Timer(0.5, migrating.invalidate)
        late.start()

        database.migrate(database_url)

    other.dispose()
