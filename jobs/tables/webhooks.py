"""Webhooks, and what is sent to them."""

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from jobs.tables.base import metadata, now

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("name", Text),
    Column("url", Text, nullable=False),
    Column("event_types", ARRAY(Text), nullable=False),
    Column("is_enabled", Boolean, nullable=False),
    Column("disabled_reason", Text),
    Column("secret", Text, nullable=False),  # sealed, as the next
    Column("old_secret", Text),
    Column("old_secret_until", DateTime(timezone=True)),
    Column("secret_hint", Text, nullable=False),
    now("created_at"),
    now("updated_at"),
    Index("ix_webhooks_project_id", "project", text("id DESC")),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("webhook_id", Text, ForeignKey("webhooks.id", ondelete="CASCADE"), primary_key=True),
    Column("event_id", Text, primary_key=True),
    Column("event_type", Text, nullable=False),
    Column("body", Text, nullable=False),  # the same bytes in every try
    Column("state", Text, nullable=False, server_default="pending"),
    Column("num_tries", Integer, nullable=False, server_default="0"),
    Column("next_try_at", DateTime(timezone=True)),
    now("created_at"),
    CheckConstraint("state IN ('pending', 'delivered', 'failed')", name="state_is_known"),
    CheckConstraint("(state = 'pending') = (next_try_at IS NOT NULL)", name="pending_has_a_time"),
    Index(
        "ix_deliveries_due",
        "webhook_id",
        "next_try_at",
        postgresql_where=text("state = 'pending'"),
    ),
    Index("ix_deliveries_created_at", "created_at"),
)

delivery_tries = Table(
    "delivery_tries",
    metadata,
    Column("webhook_id", Text, primary_key=True),
    Column("event_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    now("at"),
    Column("duration_seconds", Double, nullable=False),
    Column("status_code", Integer),
    Column("error", Text),
    Column("answer", Text),
    ForeignKeyConstraint(
        ["webhook_id", "event_id"],
        ["deliveries.webhook_id", "deliveries.event_id"],
        ondelete="CASCADE",
    ),
)
