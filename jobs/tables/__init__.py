"""The tables, a module a family. `migrations/` makes them; `alembic check` holds the two equal."""

from jobs.tables.access import api_keys, audit, projects, rates, secrets, usage
from jobs.tables.base import metadata
from jobs.tables.inputs import datasets, models
from jobs.tables.jobs import artifacts, attempts, events, jobs

__all__ = [
    "api_keys",
    "artifacts",
    "attempts",
    "audit",
    "datasets",
    "events",
    "jobs",
    "metadata",
    "models",
    "projects",
    "rates",
    "secrets",
    "usage",
]
