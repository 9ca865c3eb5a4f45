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
from jobs.tables.base import Member, metadata, now

jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, nullable=False, server_default="default"),
    Column("sweep_id", Text),
    Column("parent_id", Text, ForeignKey("jobs.id", ondelete="SET NULL")),
    Column("name", Text),
    Column("notes", Text),
    Column("version", Integer, nullable=False, server_default="0"),
    Column("task", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("spec", JSONB, nullable=False),
    Column("resolved", JSONB(none_as_null=True)),
    Column("dataset_ids", ARRAY(Text), nullable=False),
    Column("labels", JSONB, nullable=False),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("num_gpus", Integer, nullable=False, server_default="0"),
    Column("state", Member(State), nullable=False),
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
    # A page of a list reads as many entries as it has jobs, by whichever one it is filtered.
    Index("ix_jobs_project_id", "project", text("id DESC")),
    Index("ix_jobs_state", "project", "state", text("id DESC")),
    Index("ix_jobs_task", "project", "task", text("id DESC")),
    Index("ix_jobs_model", "project", "model", text("id DESC")),
    Index("ix_jobs_name", "project", "name", text("id DESC")),
    Index(
        "ix_jobs_parent_id",
        "parent_id",
        text("id DESC"),
        postgresql_where=text("parent_id IS NOT NULL"),
    ),
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
    Index(
        "ix_jobs_finished_at",
        text("finished_at DESC"),
        postgresql_where=text("finished_at IS NOT NULL AND started_at IS NOT NULL"),
    ),
    Index("ix_jobs_dataset_ids", "dataset_ids", postgresql_using="gin"),
    # Whether a checkpoint may go: few jobs start from what another has made.
    Index("ix_jobs_origin", "model", postgresql_where=text("model LIKE 'job:%'")),
)


# `jobs.labels` is what is shown; this is where jobs are found by them, in order.
job_labels = Table(
    "job_labels",
    metadata,
    Column("project", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("value", Text, primary_key=True),
    Column("job_id", Text, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Index("ix_job_labels_job_id", "job_id"),
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
    Column("num_batches", Integer, nullable=False, server_default="0"),
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

pushes = Table(
    "pushes",
    metadata,
    _job_id(),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("step", Integer),  # of the checkpoint whose model it is; null for the finished one
    Column("repo", Text, nullable=False),
    Column("private", Boolean, nullable=False),
    Column("branch", Text),
    Column("tag", Text),
    Column("secret", Text, nullable=False),  # its name
    Column("state", Text, nullable=False, server_default="pending"),
    Column("num_tries", Integer, nullable=False, server_default="0"),
    Column("max_tries", Integer, nullable=False),
    Column("next_try_at", DateTime(timezone=True)),
    Column("url", Text),
    Column("commit", Text),
    Column("error", JSONB(none_as_null=True)),
    now("created_at"),
    Column("finished_at", DateTime(timezone=True)),
    CheckConstraint("state IN ('pending', 'pushed', 'failed')", name="state_is_known"),
    CheckConstraint("(state = 'pending') = (next_try_at IS NOT NULL)", name="pending_has_a_time"),
    Index("ix_pushes_pending", "job_id", postgresql_where=text("state = 'pending'")),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    _job_id(),
    Column("step", Integer, primary_key=True, autoincrement=False),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("state", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("files", JSONB, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("metrics", JSONB, nullable=False),
    Column("is_best", Boolean, nullable=False),
    now("created_at"),
    CheckConstraint("state IN ('storing', 'stored', 'removing')", name="state_is_known"),
    Index("ix_checkpoints_unfinished", "job_id", postgresql_where=text("state <> 'stored'")),
)
