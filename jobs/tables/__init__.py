"""The tables, a module a family. `migrations/` makes them; `alembic check` holds the two equal."""

from jobs.tables.base import metadata
from jobs.tables.inputs import datasets, models
<<<<<<< HEAD
from jobs.tables.jobs import artifacts, attempts, events, jobs
from jobs.tables.webhooks import deliveries, delivery_tries, webhooks
=======
from jobs.tables.jobs import artifacts, attempts, events, job_labels, jobs
from jobs.tables.replies import replies
>>>>>>> main

__all__ = [
    "artifacts",
    "attempts",
    "datasets",
<<<<<<< HEAD
    "deliveries",
    "delivery_tries",
    "events",
    "jobs",
    "metadata",
    "models",
    "webhooks",
=======
    "events",
    "job_labels",
    "jobs",
    "metadata",
    "models",
    "replies",
>>>>>>> main
]
