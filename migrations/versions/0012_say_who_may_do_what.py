"""Say who may do what"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_NOW = sa.text("now()")


def _now(name: str) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), server_default=_NOW, nullable=False)


def _time(name: str) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True))


def upgrade() -> None:
    _make_projects()
    _make_keys()
    op.create_table(
        "secrets",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("ciphertext", sa.Text(), nullable=False),
        _now("created_at"),
        _now("updated_at"),
        sa.ForeignKeyConstraint(["project"], ["projects.name"], name=op.f("fk_secrets_project")),
        sa.PrimaryKeyConstraint("project", "name", name=op.f("pk_secrets")),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        _now("at"),
        sa.Column("key_id", sa.Text()),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("detail", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index("ix_audit_project_id", "audit", ["project", sa.text("id DESC")])
    op.create_index(
        "ix_jobs_turns",
        "jobs",
        ["project", sa.text("priority DESC"), "queued_at", "id"],
        postgresql_where=sa.text("state = 'queued'"),
    )


def _make_projects() -> None:
    op.create_table(
        "projects",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("max_queued_jobs", sa.Integer()),
        sa.Column("max_running_jobs", sa.Integer()),
        sa.Column("max_device_hours", sa.Float()),
        sa.Column("max_storage_bytes", sa.BigInteger()),
        _now("created_at"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_projects")),
    )
    op.execute("INSERT INTO projects (name) VALUES ('default')")
    op.create_table(
        "usage",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("month", sa.Date(), nullable=False),
        sa.Column("device_seconds", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("project", "month", name=op.f("pk_usage")),
    )


def _make_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("requests_per_second", sa.Float()),
        _now("created_at"),
        _time("expires_at"),
        _time("revoked_at"),
        _time("last_used_at"),
        sa.CheckConstraint(
            "scopes <@ ARRAY['read', 'submit', 'admin']", name=op.f("ck_api_keys_scopes_are_known")
        ),
        sa.ForeignKeyConstraint(["project"], ["projects.name"], name=op.f("fk_api_keys_project")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("sha256", name=op.f("uq_api_keys_sha256")),
    )
    op.create_index("ix_api_keys_project_id", "api_keys", ["project", sa.text("id DESC")])
    op.create_table(
        "rates",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("tokens", sa.Float(), nullable=False),
        _now("updated_at"),
        sa.ForeignKeyConstraint(
            ["key_id"], ["api_keys.id"], name=op.f("fk_rates_key_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_rates")),
        prefixes=["UNLOGGED"],
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_turns", "jobs")
    for table in ("audit", "secrets", "rates", "api_keys", "usage", "projects"):
        op.drop_table(table)
