"""What jobs are made of: data sets and base models."""

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, Index, Table, Text, text
from sqlalchemy.dialects.postgresql import JSONB

from jobs.tables.base import metadata, now

datasets = Table(
    "datasets",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, nullable=False, server_default="default"),
    Column("name", Text, nullable=False),
    Column("has_header", Boolean, nullable=False),
    Column("key", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("description", JSONB, nullable=False),
    now("created_at"),
    Index("ix_datasets_project_id", "project", text("id DESC")),
)

models = Table(
    "models",
    metadata,
    Column("project", Text, primary_key=True, server_default="default"),
    Column("name", Text, primary_key=True),
    Column("path", Text),
    Column("hub", Text),
    Column("revision", Text),
    now("created_at"),
    CheckConstraint("(path IS NULL) <> (hub IS NULL)", name="one_source"),
)
