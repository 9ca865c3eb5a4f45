"""What the API and the workers stand on, connected by the settings."""

from dataclasses import dataclass, field

import redis
from sqlalchemy import Engine

from jobs.database import make_engine
from jobs.feed import Feed, open_redis
from jobs.queue import Bell, make_celery
from jobs.settings import Settings
from jobs.storage import Storage
from jobs.transaction import Database
from trainer_core.errors import InvalidSetting

_PROBE = "luthier:probe"
_PROBE_VALUE = "x" * 1024  # one that is full may still take a few bytes
_PROBE_SECONDS = 60
_PRODUCER_SECONDS = 2  # a request does not wait longer for a frozen Redis


@dataclass(frozen=True, slots=True)
class Backends:
    """Database, queue, feed and storage of one process."""

    settings: Settings
    engine: Engine
    database: Database
    storage: Storage
    redis_url: str = field(repr=False)

    def is_redis_up(self) -> bool:
        """Return whether Redis takes a write within two seconds: it may be full, or a replica."""
        try:
            with open_redis(self.redis_url) as client:
                return bool(client.set(_PROBE, _PROBE_VALUE, ex=_PROBE_SECONDS))
        except redis.RedisError:
            return False


def connect(settings: Settings, *, num_sharing: int = 1) -> Backends:
    """Return the backends that the settings name, or raise InvalidSetting if one is not named.

    Args:
        settings: which name them.
        num_sharing: of how many processes this is one that share the database's connections.
    """
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
    engine = make_engine(settings.database_url, num_sharing=num_sharing)
    producer = make_celery(settings.redis_url, socket_timeout_seconds=_PRODUCER_SECONDS)
    client = open_redis(settings.redis_url)
    return Backends(
        settings=settings,
        engine=engine,
        database=Database(engine, Feed(client).publish, Bell(producer, client).ring),
        storage=Storage(settings.storage),
        redis_url=settings.redis_url,
    )
