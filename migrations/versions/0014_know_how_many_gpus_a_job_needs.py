"""Know how many GPUs a job needs"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("num_gpus", sa.Integer(), server_default="0", nullable=False))
    op.execute("""
        UPDATE jobs SET num_gpus = (spec #>> '{resources,gpus}')::int
        WHERE jsonb_typeof(spec #> '{resources,gpus}') = 'number'
            AND spec #> '{resources,gpus}' <> '0'
    """)


def downgrade() -> None:
    op.drop_column("jobs", "num_gpus")
