"""Keep first replies and edits"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"
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
    _index_jobs()
    _move_labels()


def _index_jobs() -> None:
    op.create_index(
        "ix_jobs_parent_id",
        "jobs",
        ["parent_id", sa.text("id DESC")],
        postgresql_where=sa.text("parent_id IS NOT NULL"),
    )
    for column in ("state", "task", "model", "name"):
        op.create_index(f"ix_jobs_{column}", "jobs", ["project", column, sa.text("id DESC")])
    op.create_index(
        "ix_jobs_finished_at",
        "jobs",
        [sa.text("finished_at DESC")],
        postgresql_where=sa.text("finished_at IS NOT NULL AND started_at IS NOT NULL"),
    )


def _move_labels() -> None:
    op.create_table(
        "job_labels",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("project", "key", "value", "job_id", name="pk_job_labels"),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name="fk_job_labels_job_id", ondelete="CASCADE"
        ),
    )
    op.execute(
        "INSERT INTO job_labels (project, key, value, job_id) "
        "SELECT project, pair.key, pair.value, id FROM jobs, jsonb_each_text(labels) AS pair"
    )
    op.create_index("ix_job_labels_job_id", "job_labels", ["job_id"])
    op.drop_index("ix_jobs_labels", "jobs")


def downgrade() -> None:
    op.create_index("ix_jobs_labels", "jobs", ["labels"], postgresql_using="gin")
    op.drop_table("job_labels")
    for column in ("finished_at", "name", "model", "task", "state", "parent_id"):
        op.drop_index(f"ix_jobs_{column}", "jobs")
    op.drop_constraint("fk_jobs_parent_id", "jobs", type_="foreignkey")
    op.drop_column("jobs", "version")
    op.drop_column("jobs", "notes")
    op.drop_column("jobs", "parent_id")
    op.drop_table("replies")
