"""The database's clock, which is everybody's."""

from datetime import timedelta
from typing import Any

from sqlalchemy import func, literal


def in_seconds(seconds: float) -> Any:
    """Return the time in so many seconds from this statement on."""
    return func.clock_timestamp() + literal(timedelta(seconds=seconds))
