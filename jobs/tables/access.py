"""Who may do what: projects, their keys and secrets, what they use, and what they did."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from jobs.tables.base import metadata, now


def _project(*, is_key: bool = False) -> Column[str]:
    return Column("project", Text, ForeignKey("projects.name"), primary_key=is_key, nullable=False)


projects = Table(
    "projects",
    metadata,
    Column("name", Text, primary_key=True),
    # Quotas; null for none.
    Column("max_queued_jobs", Integer),
    Column("max_running_jobs", Integer),
    Column("max_device_hours", Float),  # a calendar month, UTC
    Column("max_storage_bytes", BigInteger),
    now("created_at"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    _project(),
    Column("name", Text, nullable=False),
    Column("prefix", Text, nullable=False),  # of the secret, to know the key by
    Column("sha256", Text, nullable=False, unique=True),  # of the whole secret, which is not kept
    Column("scopes", ARRAY(Text), nullable=False),
    Column("requests_per_second", Float),  # null for the service's own limit
    now("created_at"),
    Column("expires_at", DateTime(timezone=True)),
    Column("revoked_at", DateTime(timezone=True)),
    Column("last_used_at", DateTime(timezone=True)),  # to the minute
    Index("ix_api_keys_project_id", "project", text("id DESC")),
    CheckConstraint("scopes <@ ARRAY['read', 'submit', 'admin']", name="scopes_are_known"),
)

rates = Table(
    "rates",
    metadata,
    # Requests that a key has left, shared by all API processes: see jobs/store/rates.py.
    Column("key_id", Text, ForeignKey("api_keys.id", ondelete="CASCADE"), primary_key=True),
    Column("tokens", Float, nullable=False),
    now("updated_at"),
    prefixes=["UNLOGGED"],  # a crash of the database fills them up again, which is no harm
)

usage = Table(
    "usage",
    metadata,
    # Not a sum over attempts: jobs can be deleted, and the hours stay used.
    Column("project", Text, primary_key=True),
    Column("month", Date, primary_key=True),  # its first day, UTC
    Column("device_seconds", Float, nullable=False),
)

secrets = Table(
    "secrets",
    metadata,
    _project(is_key=True),
    Column("name", Text, primary_key=True),
    Column("ciphertext", Text, nullable=False),
    now("created_at"),
    now("updated_at"),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    now("at"),
    Column("key_id", Text),  # null for the operator's own commands, and where no keys are asked for
    Column("actor", Text, nullable=False),  # the key's name by then
    Column("action", Text, nullable=False),  # thing.verb
    Column("target", Text, nullable=False),
    Column("detail", JSONB, nullable=False, server_default=text("'{}'")),
    Index("ix_audit_project_id", "project", text("id DESC")),
)
