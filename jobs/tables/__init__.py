"""The tables, a module a family. `migrations/` makes them; `alembic check` holds the two equal."""

from jobs.tables.access import api_keys, audit, projects, rates, secrets, usage
from jobs.tables.base import metadata
from jobs.tables.inputs import datasets, models
from jobs.tables.jobs import artifacts, attempts, checkpoints, events, job_labels, jobs
from jobs.tables.replies import replies
from jobs.tables.webhooks import deliveries, delivery_tries, webhooks

__all__ = [
    "api_keys",
    "artifacts",
    "attempts",
    "audit",
    "checkpoints",
    "datasets",
    "deliveries",
    "delivery_tries",
    "events",
    "job_labels",
    "jobs",
    "metadata",
    "models",
    "projects",
    "rates",
    "replies",
    "secrets",
    "usage",
    "webhooks",
]
