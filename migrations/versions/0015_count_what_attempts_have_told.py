"""Count what attempts have told"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "attempts", sa.Column("num_batches", sa.Integer(), server_default="0", nullable=False)
    )


def downgrade() -> None:
    op.drop_column("attempts", "num_batches")
