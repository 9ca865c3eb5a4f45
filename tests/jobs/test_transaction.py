"""Connections that were cut are replaced unseen; bells are rung while they help."""

from sqlalchemy import text

from jobs.backends import Backends
from jobs.feed import open_redis
from jobs.queue import MAX_WAITING, QUEUE
from jobs.store import projects

_CUT = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


def test_connections_that_were_cut_are_replaced_before_anything_is_asked(
    backends: Backends,
) -> None:
    opened = [backends.engine.connect() for _ in range(4)]
    for connection in opened[:-1]:
        connection.close()
    opened[-1].execute(_CUT)
    opened[-1].close()

    for name in ("one", "two"):
        with backends.database.transaction() as tx:
            projects.create(tx, name, quotas={})

    with backends.database.transaction() as tx:
        assert tx.connection.execute(text("SELECT count(*) FROM projects")).scalar_one() >= 2


def test_no_more_bells_are_rung_than_can_be_of_use(backends: Backends) -> None:
    with open_redis(backends.redis_url) as client:
        client.delete(QUEUE)
        backends.database.ring([f"job_{number}" for number in range(MAX_WAITING + 20)])
        backends.database.ring(["job_last"])
        assert client.llen(QUEUE) == MAX_WAITING
        client.lpop(QUEUE)
        backends.database.ring(["job_next", "job_after"])
        assert client.llen(QUEUE) == MAX_WAITING
        client.delete(QUEUE)
