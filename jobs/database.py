"""The engine and the migrations."""

from importlib.resources import files
from typing import TYPE_CHECKING, Any

from psycopg import Connection, Cursor
from psycopg.pq import ExecStatus
from pydantic_core import from_json
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import InvalidatePoolError

from trainer_core.errors import InvalidSetting

if TYPE_CHECKING:  # it takes a while to import, and a worker needs none of it
    from alembic.config import Config

_IDLE_MILLISECONDS = 10_000
_LOCK_MILLISECONDS = 5_000
_LOCK = 4_817_023_551  # an arbitrary number that only Luthier's migrations lock
_UNTOLD = (None,) * 5  # sizes, precision, scale, and whether there are nulls
_CONNECT = {
    "connect_timeout": 5,
    "tcp_user_timeout": 10_000,  # milliseconds: a peer that vanished is an error, soon
    "application_name": "luthier",
}


class _Cursor(Cursor[Any]):
    """Tells of its columns what SQLAlchemy asks for, name and type, at a third of the cost."""

    @property
    def description(self) -> list[Any] | None:
        """Each column as the DB-API has it, without what it leaves to the driver."""
        result = self.pgresult
        if result is None or not result.nfields:
            return None
        return [
            ((result.fname(index) or b"").decode(), result.ftype(index), *_UNTOLD)
            for index in range(result.nfields)
        ]


def make_engine(url: str, *, num_sharing: int = 1) -> Engine:
    """Return an engine whose connections are checked before use: servers restart.

    So many processes share what one may have, 30 connections: the server has a limit for all.

    What checks one is the BEGIN of the transaction that it is wanted for, so that it costs no round
    trip of its own; nothing has been asked by then, so that another connection can take its place.

    A process that is frozen in the midst of a transaction loses it, and with it the locks on its
    job: nobody could take the job over else, however long ago its lease ran out. Until then
    whoever waits for them is told so, soon.
    """
    limits = (
        f"-c idle_in_transaction_session_timeout={_IDLE_MILLISECONDS} "
        f"-c lock_timeout={_LOCK_MILLISECONDS}"
    )
    engine = create_engine(
        url,
        pool_size=max(2, 10 // num_sharing),
        max_overflow=max(2, 20 // num_sharing),
        hide_parameters=True,  # errors are logged, and values are the users'
        json_deserializer=from_json,  # several times as fast as the standard library's
        connect_args={**_CONNECT, "options": limits, "cursor_factory": _Cursor},
    )
    # Many rows are one statement. The driver's own way is a pipeline, whose last message, a flush,
    # has PostgreSQL stop the clock of an idle transaction: one frozen then is never ended.
    engine.dialect.use_insertmanyvalues_wo_returning = True
    event.listen(engine, "checkout", _begin)
    return engine


def _begin(connection: Connection[Any], *_: object) -> None:
    """Begin the transaction for which a connection is taken from the pool, or have it replaced."""
    try:
        is_begun = connection.pgconn.exec_(b"BEGIN").status == ExecStatus.COMMAND_OK
    except MemoryError:  # so psycopg names that nothing could be sent
        is_begun = False
    if not is_begun:
        raise InvalidatePoolError


def migration_config(url: str) -> "Config":
    """Return Alembic's configuration for a database."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(files("migrations")))
    config.attributes["url"] = url
    return config


def migrate(url: str) -> None:
    """Bring the tables up to date. Several processes may call it at once.

    Raises:
        InvalidSetting: a newer version of the service has changed the tables.
    """
    from alembic import command
    from alembic.util import CommandError

    # Without a transaction, which would be idle for as long as the migrations take, and without a
    # limit: those of another process are waited for.
    engine = create_engine(url, isolation_level="AUTOCOMMIT", connect_args=_CONNECT)
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK})
            try:
                command.upgrade(migration_config(url), "head")
            finally:
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK})
    except CommandError as error:  # the only one: the tables' revision is not among ours
        raise InvalidSetting(
            f"the database was changed by a newer version of Luthier: {error}.",
            hint="Run that version, or restore a backup from before it into this database.",
            param="LUTHIER_DATABASE_URL",
        ) from error
    finally:
        engine.dispose()


def is_current(engine: Engine) -> bool:
    """Return whether the tables are those that this code expects."""
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    script = ScriptDirectory(str(files("migrations")))
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision() == (
            script.get_current_head()
        )
