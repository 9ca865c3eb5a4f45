"""Jobs, and what happens to them."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from jobs.states import LEASED, State
from jobs.tables.base import metadata, now

jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, nullable=False, server_default="default"),
    Column("name", Text),
    Column("task", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("spec", JSONB, nullable=False),
    Column("resolved", JSONB(none_as_null=True)),
    Column("dataset_ids", ARRAY(Text), nullable=False),
    Column("labels", JSONB, nullable=False),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("state", Text, nullable=False),
    Column("phase", Text),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("max_attempts", Integer, nullable=False),
    Column("micro_batch_size", Integer),
    Column("worker", Text),
    Column("lease_until", DateTime(timezone=True)),
    Column("progress", JSONB(none_as_null=True)),
    Column("metrics", JSONB, nullable=False, server_default=text("'{}'")),
    Column("best", JSONB(none_as_null=True)),
    Column("error", JSONB(none_as_null=True)),
    Column("keep", Boolean, nullable=False, server_default=text("false")),
    Column("last_event_id", BigInteger, nullable=False, server_default="0"),
    now("created_at"),
    now("queued_at"),
    Column("started_at", DateTime(timezone=True)),
    Column("finished_at", DateTime(timezone=True)),
    now("updated_at"),
    CheckConstraint(
        "state IN ({})".format(", ".join(f"'{state}'" for state in State)), name="state_is_known"
    ),
    Index("ix_jobs_project_id", "project", text("id DESC")),
    Index(
        "ix_jobs_queue",
        text("priority DESC"),
        "queued_at",
        "id",
        postgresql_where=text("state = 'queued'"),
    ),
    # For each project's next job: see jobs/store/turns.py.
    Index(
        "ix_jobs_turns",
        "project",
        text("priority DESC"),
        "queued_at",
        "id",
        postgresql_where=text("state = 'queued'"),
    ),
    # Not on lease_until: renewing would rewrite every index of the row each second.
    Index(
        "ix_jobs_leased",
        "id",
        postgresql_where=text(
            "state IN ({})".format(", ".join(f"'{state}'" for state in sorted(LEASED)))
        ),
    ),
    Index("ix_jobs_labels", "labels", postgresql_using="gin"),
    Index("ix_jobs_dataset_ids", "dataset_ids", postgresql_using="gin"),
)


def _job_id() -> Column[str]:
    return Column(
        "job_id", Text, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True, nullable=False
    )


attempts = Table(
    "attempts",
    metadata,
    _job_id(),
    Column("number", Integer, primary_key=True),
    Column("worker", Text, nullable=False),
    now("started_at"),
    Column("finished_at", DateTime(timezone=True)),
    Column("reason", Text),
    Column("first_step", Integer),
    Column("last_step", Integer),
)

events = Table(
    "events",
    metadata,
    _job_id(),
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("attempt", Integer),
    now("at"),
    Column("type", Text, nullable=False),
    Column("data", JSONB, nullable=False),
)

artifacts = Table(
    "artifacts",
    metadata,
    _job_id(),
    Column("path", Text, primary_key=True),
    Column("key", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    now("created_at"),
)
