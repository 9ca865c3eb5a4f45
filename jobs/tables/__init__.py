"""The tables, a module a family. `migrations/` makes them; `alembic check` holds the two equal."""

from jobs.tables.access import api_keys, audit, projects, rates, secrets, usage
from jobs.tables.base import metadata
from jobs.tables.inputs import datasets, models
from jobs.tables.jobs import artifacts, attempts, checkpoints, events, job_labels, jobs, pushes
from jobs.tables.openai import checkpoint_permissions, files, fine_tunes, upload_parts, uploads
from jobs.tables.replies import replies
from jobs.tables.sweeps import sweeps, trials
from jobs.tables.webhooks import deliveries, delivery_tries, webhooks
from jobs.tables.workers import workers

__all__ = [
    "api_keys",
    "artifacts",
    "attempts",
    "audit",
    "checkpoint_permissions",
    "checkpoints",
    "datasets",
    "deliveries",
    "delivery_tries",
    "events",
    "files",
    "fine_tunes",
    "job_labels",
    "jobs",
    "metadata",
    "models",
    "projects",
    "pushes",
    "rates",
    "replies",
    "secrets",
    "sweeps",
    "trials",
    "upload_parts",
    "uploads",
    "usage",
    "webhooks",
    "workers",
]
