"""Make the tables of OpenAI's objects"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _make_files()
    _make_uploads()
    op.create_table(
        "fine_tunes",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("suffix", sa.Text()),
        sa.Column("metadata", postgresql.JSONB(none_as_null=True)),
        sa.Column("integrations", postgresql.JSONB(none_as_null=True)),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_fine_tunes_job_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_fine_tunes")),
    )
    op.create_index("ix_fine_tunes_metadata", "fine_tunes", ["metadata"], postgresql_using="gin")
    op.create_table(
        "checkpoint_permissions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("step", sa.Integer()),
        sa.Column("grantee", sa.Text(), nullable=False),
        _now("created_at"),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["jobs.id"],
            name=op.f("fk_checkpoint_permissions_job_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checkpoint_permissions")),
        sa.UniqueConstraint(
            "job_id",
            "step",
            "grantee",
            name=op.f("uq_checkpoint_permissions_job_id_step_grantee"),
            postgresql_nulls_not_distinct=True,
        ),
    )


def downgrade() -> None:
    for table in ("checkpoint_permissions", "fine_tunes", "upload_parts", "uploads", "files"):
        op.drop_table(table)


def _make_files() -> None:
    op.create_table(
        "files",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), server_default="default", nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("dataset_id", sa.Text()),
        sa.Column("job_id", sa.Text()),
        sa.Column("key", sa.Text()),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("fault", sa.Text()),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
        _now("created_at"),
        sa.CheckConstraint(
            "num_nonnulls(dataset_id, job_id, key) = 1", name=op.f("ck_files_one_source")
        ),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_files_dataset_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_files_job_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_files")),
        sa.UniqueConstraint("dataset_id", name=op.f("uq_files_dataset_id")),
        sa.UniqueConstraint("job_id", name=op.f("uq_files_job_id")),
    )
    op.create_index("ix_files_project_id", "files", ["project", sa.text("id DESC")])
    op.create_index(
        "ix_files_expires_at",
        "files",
        ["expires_at"],
        postgresql_where=sa.text("expires_at IS NOT NULL"),
    )
    op.execute(
        "INSERT INTO files (id, project, purpose, name, dataset_id, size_bytes, created_at) "
        "SELECT 'file-' || substr(id, 4), project, 'fine-tune', name, id, size_bytes, created_at "
        "FROM datasets"
    )


def _make_uploads() -> None:
    op.create_table(
        "uploads",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), server_default="default", nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("mime_type", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("file_id", sa.Text()),
        sa.Column("file_expires_seconds", sa.Integer()),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        _now("created_at"),
        sa.CheckConstraint(
            "state IN ('pending', 'completed', 'cancelled')", name=op.f("ck_uploads_state_is_known")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
    )
    op.create_index("ix_uploads_expires_at", "uploads", ["expires_at"])
    op.create_table(
        "upload_parts",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("upload_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        _now("created_at"),
        sa.ForeignKeyConstraint(
            ["upload_id"],
            ["uploads.id"],
            name=op.f("fk_upload_parts_upload_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_upload_parts")),
    )
    op.create_index("ix_upload_parts_upload_id", "upload_parts", ["upload_id"])


def _now(name: str) -> sa.Column[object]:
    return sa.Column(
        name, sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
    )
