"""List stored checkpoints"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "checkpoints",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("step", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("files", JSONB(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("metrics", JSONB(), nullable=False),
        sa.Column("is_best", sa.Boolean(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.CheckConstraint("state IN ('storing', 'stored', 'removing')", name="state_is_known"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "step", "attempt"),
    )
    op.create_index(
        "ix_checkpoints_unfinished",
        "checkpoints",
        ["job_id"],
        postgresql_where=sa.text("state <> 'stored'"),
    )
    op.create_index(
        "ix_jobs_origin", "jobs", ["model"], postgresql_where=sa.text("model LIKE 'job:%'")
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_origin", table_name="jobs")
    op.drop_table("checkpoints")
