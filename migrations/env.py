"""How Alembic reaches the database: by the URL that `jobs.database` puts into its configuration."""

from alembic import context
from sqlalchemy import NullPool, create_engine, text

from jobs.settings import load_settings
from jobs.tables import metadata

LOCK_TIMEOUT = "5s"  # a migration that waits for a lock makes everybody behind it wait
STATEMENT_TIMEOUT = "10min"


def run() -> None:
    url = context.config.attributes.get("url") or load_settings().database_url
    engine = create_engine(url, poolclass=NullPool)  # closed whatever happens
    with engine.connect() as connection:
        connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
        connection.execute(text(f"SET statement_timeout = '{STATEMENT_TIMEOUT}'"))
        connection.commit()
        context.configure(
            connection=connection, target_metadata=metadata, compare_server_default=True
        )
        with context.begin_transaction():
            context.run_migrations()


run()
