"""The migrations make the tables that the code expects, and take them away again."""

import pytest
from alembic import command
from sqlalchemy import inspect, text

from jobs.database import is_current, make_engine, migrate, migration_config
from jobs.store import pushes
from tests.stored import new_job
from trainer_core.errors import InvalidSetting
from trainer_core.spec.publishing import PushSpec

pytestmark = pytest.mark.slow


def test_migrations_and_tables_agree(database_url):
    command.check(migration_config(database_url))  # raises if a new revision would not be empty


def test_down_and_up_again(database_url):
    config = migration_config(database_url)
    engine = make_engine(database_url)
    command.downgrade(config, "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]
    assert not is_current(engine)
    migrate(database_url)
    assert is_current(engine)
    assert "jobs" in inspect(engine).get_table_names()
    engine.dispose()


def test_pushes_of_checkpoints_are_given_up_before_a_version_that_knows_none(
    backends, database_url
):
    asked = PushSpec(repo="me/m", secret="hf")
    with backends.database.transaction() as tx:
        job_id = new_job(tx).id
        for step in (10, 20):
            pushes.ask(tx, job_id, asked, max_tries=3, step=step)

    command.downgrade(migration_config(database_url), "0015")
    with backends.engine.connect() as connection:
        found = connection.execute(text("SELECT number, state FROM pushes ORDER BY number"))
        assert found.all() == [(1, "failed"), (2, "failed")]
    migrate(database_url)

    with backends.database.transaction() as tx:
        assert pushes.ask(tx, job_id, asked, max_tries=3, step=20).number == 3
        assert pushes.of_job(tx, job_id)[0].error["code"] == "push_failed"


def test_migrations_wait_for_a_lock_only_a_while(database_url):
    engine = make_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("LOCK TABLE jobs IN ACCESS SHARE MODE"))
        with pytest.raises(Exception, match="lock timeout"):
            command.downgrade(migration_config(database_url), "base")
    assert "jobs" in inspect(engine).get_table_names()
    engine.dispose()


def test_tables_of_a_newer_version_are_named_as_such(database_url):
    engine = make_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(InvalidSetting, match="newer version") as found:
        migrate(database_url)
    assert "9999" in found.value.message
    engine.dispose()
