"""The first reply to a request with an `Idempotency-Key`, for those who ask again."""

from sqlalchemy import Column, Index, Integer, Table, Text
from sqlalchemy.dialects.postgresql import JSONB

from jobs.tables.base import metadata, now

replies = Table(
    "replies",
    metadata,
    Column("project", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("headers", JSONB, nullable=False),
    Column("body", Text, nullable=False),
    now("created_at"),
    Index("ix_replies_created_at", "created_at"),
)
