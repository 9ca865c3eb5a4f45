"""Keep first replies and edits"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "replies",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("headers", postgresql.JSONB(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.PrimaryKeyConstraint("project", "key", name="pk_replies"),
    )
    op.create_index("ix_replies_created_at", "replies", ["created_at"])
    op.add_column("jobs", sa.Column("parent_id", sa.Text()))
    op.add_column("jobs", sa.Column("notes", sa.Text()))
    op.add_column("jobs", sa.Column("version", sa.Integer(), server_default="0", nullable=False))
    op.create_foreign_key(
        "fk_jobs_parent_id", "jobs", "jobs", ["parent_id"], ["id"], ondelete="SET NULL"
    )
    op.create_index(
        "ix_jobs_parent_id",
        "jobs",
        ["parent_id", sa.text("id DESC")],
        postgresql_where=sa.text("parent_id IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_constraint("fk_jobs_parent_id", "jobs", type_="foreignkey")
    op.drop_column("jobs", "version")
    op.drop_column("jobs", "notes")
    op.drop_column("jobs", "parent_id")
    op.drop_table("replies")
