"""What the API and the workers stand on, connected by the settings."""

from dataclasses import dataclass, field
from pathlib import Path

import redis
from sqlalchemy import Engine

from jobs.database import make_engine
from jobs.feed import Feed, open_redis
from jobs.queue import Bell, make_celery
from jobs.settings import Settings
from jobs.storage import Storage
from jobs.transaction import Database
from jobs.vault import Vault
from trainer_core.errors import InvalidSetting

_PRODUCER_SECONDS = 2  # a request does not wait longer for a frozen Redis


@dataclass(frozen=True, slots=True)
class Backends:
    """Database, queue, feed and storage of one process."""

    settings: Settings
    engine: Engine
    database: Database
    storage: Storage
    redis_url: str = field(repr=False)
    vault: Vault

    def is_redis_up(self) -> bool:
        """Return whether Redis answers within two seconds."""
        try:
            with open_redis(self.redis_url) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


def connect(settings: Settings) -> Backends:
    """Return the backends that the settings name, or raise InvalidSetting if one is not named."""
    for name in ("database_url", "redis_url"):
        if getattr(settings, name) is None:
            variable = f"LUTHIER_{name.upper()}"
            raise InvalidSetting(
                f"{variable} is not set.",
                hint="Set it, or start the whole service with `luthier up`, which brings its own.",
                param=variable,
            )
    assert settings.database_url is not None
    assert settings.redis_url is not None
    engine = make_engine(settings.database_url)
    producer = make_celery(settings.redis_url, socket_timeout_seconds=_PRODUCER_SECONDS)
    feed = Feed(open_redis(settings.redis_url))
    return Backends(
        settings=settings,
        engine=engine,
        database=Database(engine, feed.publish, Bell(producer).ring),
        storage=Storage(settings.storage),
        redis_url=settings.redis_url,
        vault=vault_of(settings),
    )


def vault_of(settings: Settings) -> Vault:
    """Return what seals secrets: by the setting, else by the home's own key if there is one."""
    path = key_file(settings.home)
    if settings.secret_key is None and path.exists():
        return Vault(path.read_text(encoding="ascii"))
    return Vault(settings.secret_key)


def key_file(home: Path) -> Path:
    """Return the file of a home's own key."""
    return home / "secret.key"
