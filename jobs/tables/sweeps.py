"""Sweeps, and the trials that they are made of."""

from sqlalchemy import (
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSON, JSONB

from jobs.states import SweepState, TrialState
from jobs.tables.base import Member, metadata, now

sweeps = Table(
    "sweeps",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("name", Text),
    Column("state", Member(SweepState), nullable=False),
    Column("reason", Text),
    Column("plan", JSON, nullable=False),  # unlike JSONB it keeps the order of the fields
    now("created_at"),
    Column("finished_at", DateTime(timezone=True)),
    now("updated_at"),
    CheckConstraint(
        "state IN ({})".format(", ".join(f"'{state}'" for state in SweepState)),
        name="state_is_known",
    ),
    Index("ix_sweeps_project_id", "project", text("id DESC")),
    Index("ix_sweeps_running", "id", postgresql_where=text("state = 'running'")),
)

trials = Table(
    "trials",
    metadata,
    Column("sweep_id", Text, ForeignKey("sweeps.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("params", JSON, nullable=False),
    Column("job_id", Text, ForeignKey("jobs.id", ondelete="SET NULL")),
    Column("state", Member(TrialState), nullable=False),
    Column("value", Double),
    Column("measured", JSONB, nullable=False, server_default=text("'{}'")),
    Column("reason", Text),
    now("created_at"),
    Column("finished_at", DateTime(timezone=True)),
    CheckConstraint(
        "state IN ({})".format(", ".join(f"'{state}'" for state in TrialState)),
        name="state_is_known",
    ),
    Index("ix_trials_job_id", "job_id"),
    Index("ix_trials_running", "sweep_id", postgresql_where=text("state = 'running'")),
)
