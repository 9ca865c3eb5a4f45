"""The tables, a module a family. `migrations/` makes them; `alembic check` holds the two equal."""

from jobs.tables.base import metadata
from jobs.tables.inputs import datasets, models
from jobs.tables.jobs import artifacts, attempts, events, jobs
from jobs.tables.workers import workers

__all__ = ["artifacts", "attempts", "datasets", "events", "jobs", "metadata", "models", "workers"]
