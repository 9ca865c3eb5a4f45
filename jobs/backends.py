"""What the API and the workers stand on, connected by the settings."""

from dataclasses import dataclass

import redis
from celery import Celery
from sqlalchemy import Engine

from jobs.database import make_engine
from jobs.feed import make_feed
from jobs.queue import Bell, make_celery
from jobs.settings import Settings
from jobs.storage import Storage
from jobs.transaction import Database
from trainer_core.errors import InvalidSetting


@dataclass(frozen=True, slots=True)
class Backends:
    """Database, queue, feed and storage of one process."""

    settings: Settings
    engine: Engine
    database: Database
    storage: Storage
    celery: Celery
    redis_url: str

    def is_redis_up(self) -> bool:
        """Return whether Redis answers within two seconds."""
        try:
            with redis.Redis.from_url(
                self.redis_url, socket_timeout=2, socket_connect_timeout=2
            ) as client:
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
    celery = make_celery(settings.redis_url)
    feed = make_feed(settings.redis_url)
    return Backends(
        settings=settings,
        engine=engine,
        database=Database(engine, feed.publish, Bell(celery).ring),
        storage=Storage(settings.storage),
        celery=celery,
        redis_url=settings.redis_url,
    )
