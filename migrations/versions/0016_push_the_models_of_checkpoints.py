"""Push the models of checkpoints"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("pushes", sa.Column("step", sa.Integer(), nullable=True))
    _index(unique=False)


def downgrade() -> None:
    # They stay, so that numbers have no gaps; what is not done would push the finished model.
    op.execute("""
        UPDATE pushes SET state = 'failed', next_try_at = NULL, finished_at = now(),
            error = jsonb_build_object(
                'code', 'push_failed', 'message', 'checkpoints can not be pushed any more.',
                'hint', '', 'whose', 'system', 'retryable', false, 'param', NULL,
                'detail', jsonb_build_object()
            )
        WHERE step IS NOT NULL AND state = 'pending'
    """)
    op.drop_column("pushes", "step")
    _index(unique=True)


def _index(*, unique: bool) -> None:
    op.drop_index("ix_pushes_pending", "pushes")
    op.create_index(
        "ix_pushes_pending",
        "pushes",
        ["job_id"],
        unique=unique,
        postgresql_where=sa.text("state = 'pending'"),
    )
