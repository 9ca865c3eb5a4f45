"""Whether the process lives, and whether the service can do its work."""

import logging
from collections.abc import Callable

from fastapi import APIRouter, Response
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from api.dependencies import Service
from api.schemas import Checks, Liveness, Readiness
from jobs.backends import Backends
from jobs.database import is_current
from jobs.identifiers import new_id
from trainer_core.errors import LuthierError

router = APIRouter(tags=["health"])

_log = logging.getLogger(__name__)


@router.get("/livez")
async def get_liveness() -> Liveness:
    """Return 200 while the process answers."""
    return Liveness()


@router.get(
    "/readyz",
    responses={503: {"model": Readiness, "description": "Something that is needed does not work"}},
)
def get_readiness(service: Service, response: Response) -> Readiness:
    """Return 200 while everything that the service stands on works, else 503; says what does."""
    checks = Checks(
        database=_works(_ask_database, service),
        migrations=_works(_check_migrations, service),
        redis=service.is_redis_up(),
        storage=_works(_write_and_delete, service),
    )
    is_ready = all(checks.model_dump().values())
    response.status_code = 200 if is_ready else 503
    return Readiness(status="ok" if is_ready else "unavailable", checks=checks)


def _works(check: Callable[[Backends], None], service: Backends) -> bool:
    try:
        check(service)
    except (SQLAlchemyError, LuthierError) as error:
        _log.warning("not ready: %s", error, extra={"action": "not_ready"})
        return False
    return True


def _ask_database(service: Backends) -> None:
    with service.engine.connect() as connection:
        connection.execute(text("SELECT 1"))


def _check_migrations(service: Backends) -> None:
    if not is_current(service.engine):
        raise LuthierError("the tables are of another version.")


def _write_and_delete(service: Backends) -> None:
    key = f"probes/{new_id('probe')}"
    service.storage.put(key, [b"ready?"])
    service.storage.delete(key)
