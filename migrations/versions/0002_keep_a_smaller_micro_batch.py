"""Keep a smaller micro-batch"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Without a default: no row is rewritten, and a worker of the version before leaves it null.
    op.add_column("jobs", sa.Column("micro_batch_size", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "micro_batch_size")
