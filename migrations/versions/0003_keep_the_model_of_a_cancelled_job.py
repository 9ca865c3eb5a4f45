"""Keep the model of a cancelled job"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A constant default rewrites no row, and the version before, which does not know the column,
    # goes on beside it.
    op.add_column(
        "jobs", sa.Column("keep", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )


def downgrade() -> None:
    op.drop_column("jobs", "keep")
