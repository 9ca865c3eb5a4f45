"""Give models a project"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "models", sa.Column("project", sa.Text(), server_default="default", nullable=False)
    )
    op.drop_constraint("pk_models", "models", type_="primary")
    op.create_primary_key("pk_models", "models", ["project", "name"])


def downgrade() -> None:
    # Before projects there was one; the models of others are unreachable then.
    op.execute("DELETE FROM models WHERE project <> 'default'")
    op.drop_constraint("pk_models", "models", type_="primary")
    op.create_primary_key("pk_models", "models", ["name"])
    op.drop_column("models", "project")
