"""Alerts, and webhooks with their deliveries."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables."""
    _alerts()
    _webhooks()


def _alerts() -> None:
    op.create_table(
        "alerts",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("ts", sa.Float, nullable=False),
        sa.Column("account", sa.String(512), nullable=False),
        sa.Column("org", sa.String(200), nullable=False),
        sa.Column("project", sa.String(200), nullable=False),
        sa.Column("key_id", sa.String(40), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("period", sa.String(40), nullable=False),
        sa.Column("threshold_percent", sa.Integer, nullable=False),
        sa.Column("limit_nanousd", sa.BigInteger, nullable=False),
        sa.Column("used_nanousd", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("account", "kind", "period", "threshold_percent"),
    )
    op.create_index("ix_alerts_org_ts", "alerts", ["org", "ts", "id"])
    op.create_index("ix_alerts_ts", "alerts", ["ts", "id"])


def _webhooks() -> None:
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("org", sa.String(200), nullable=False, index=True),
        sa.Column("url", sa.String(2000), nullable=False),
        sa.Column("created_s", sa.Float, nullable=False),
    )
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("endpoint_id", sa.String(40), sa.ForeignKey("webhook_endpoints.id"), nullable=False),
        sa.Column("event", sa.String(40), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_s", sa.Float, nullable=False),
        sa.Column("leased_until_s", sa.Float, nullable=False),
        sa.Column("last_status", sa.Integer),
        sa.Column("last_error", sa.String(200), nullable=False),
        sa.Column("done_s", sa.Float),
    )
    op.create_index("ix_webhook_deliveries_state_next_s", "webhook_deliveries", ["state", "next_s"])
    op.create_index(
        "ix_webhook_deliveries_endpoint_id_created_s",
        "webhook_deliveries",
        ["endpoint_id", "created_s", "id"],
    )
