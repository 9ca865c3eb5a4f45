"""What OpenAI's objects have beyond ours: files of every purpose, uploads in parts, permissions."""

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
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from jobs.tables.base import metadata, now

files = Table(
    "files",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, nullable=False, server_default="default"),
    Column("purpose", Text, nullable=False),
    Column("name", Text, nullable=False),
    # Where its bytes are: a data set's file, figures of a job, or a file that nobody reads.
    Column("dataset_id", Text, ForeignKey("datasets.id", ondelete="CASCADE"), unique=True),
    Column("job_id", Text, ForeignKey("jobs.id", ondelete="CASCADE"), unique=True),
    Column("key", Text),
    Column("size_bytes", BigInteger, nullable=False),
    Column("fault", Text),
    Column("expires_at", DateTime(timezone=True)),
    now("created_at"),
    CheckConstraint("num_nonnulls(dataset_id, job_id, key) = 1", name="one_source"),
    Index("ix_files_project_id", "project", text("id DESC")),
    Index("ix_files_expires_at", "expires_at", postgresql_where=text("expires_at IS NOT NULL")),
)

uploads = Table(
    "uploads",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, nullable=False, server_default="default"),
    Column("purpose", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("mime_type", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("file_id", Text),
    Column("file_expires_seconds", Integer),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    now("created_at"),
    Column("sha256", Text),  # of the whole; null for OpenAI's, which do not tell it
    Column("has_header", Boolean),
    CheckConstraint("state IN ('pending', 'completed', 'cancelled')", name="state_is_known"),
    Index("ix_uploads_expires_at", "expires_at"),
    Index("ix_uploads_pending", "project", "sha256", postgresql_where=text("state = 'pending'")),
)

upload_parts = Table(
    "upload_parts",
    metadata,
    Column("id", Text, primary_key=True),
    Column(
        "upload_id", Text, ForeignKey("uploads.id", ondelete="CASCADE"), nullable=False, index=True
    ),
    Column("key", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    now("created_at"),
    Column("number", Integer),  # from 1, and null for OpenAI's, whose order is told at the end
    Column("sha256", Text),
    UniqueConstraint("upload_id", "number"),
)

fine_tunes = Table(
    "fine_tunes",
    metadata,
    Column("job_id", Text, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("suffix", Text),
    Column("metadata", JSONB(none_as_null=True)),
    Column("integrations", JSONB(none_as_null=True)),
    Index("ix_fine_tunes_metadata", "metadata", postgresql_using="gin"),
)

checkpoint_permissions = Table(
    "checkpoint_permissions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("job_id", Text, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("step", Integer),
    Column("grantee", Text, nullable=False),
    now("created_at"),
    UniqueConstraint("job_id", "step", "grantee", postgresql_nulls_not_distinct=True),
)
