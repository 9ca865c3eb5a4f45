"""Let uploads be resumed: their hash, and parts with numbers and hashes"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Null for OpenAI's, and for those of the version before.
    op.add_column("uploads", sa.Column("sha256", sa.Text(), nullable=True))
    op.add_column("uploads", sa.Column("has_header", sa.Boolean(), nullable=True))
    op.add_column("upload_parts", sa.Column("number", sa.Integer(), nullable=True))
    op.add_column("upload_parts", sa.Column("sha256", sa.Text(), nullable=True))
    op.create_unique_constraint(
        op.f("uq_upload_parts_upload_id_number"), "upload_parts", ["upload_id", "number"]
    )
    op.create_index(
        "ix_uploads_pending",
        "uploads",
        ["project", "sha256"],
        postgresql_where=sa.text("state = 'pending'"),
    )


def downgrade() -> None:
    op.drop_index("ix_uploads_pending", "uploads")
    op.drop_constraint(op.f("uq_upload_parts_upload_id_number"), "upload_parts")
    op.drop_column("upload_parts", "sha256")
    op.drop_column("upload_parts", "number")
    op.drop_column("uploads", "has_header")
    op.drop_column("uploads", "sha256")
