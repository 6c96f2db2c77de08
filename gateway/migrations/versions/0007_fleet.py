"""Shares of versions, the fleet's lease, what it runs, what the gateways ask of it."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "rollouts",
        sa.Column("model", sa.String(128), primary_key=True),
        sa.Column("shares", sa.JSON, nullable=False),
        sa.Column("previous", sa.JSON),
        sa.Column("changed_s", sa.Float, nullable=False),
    )
    op.create_table(
        "fleet_lease",
        sa.Column("name", sa.String(16), primary_key=True),
        sa.Column("owner", sa.String(80), nullable=False),
        sa.Column("until_s", sa.Float, nullable=False),
    )
    op.create_table(
        "fleet_replicas",
        sa.Column("id", sa.String(200), primary_key=True),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("state", sa.JSON, nullable=False),
        sa.Column("told_s", sa.Float, nullable=False),
    )
    op.create_table(
        "fleet_demand",
        sa.Column("gateway", sa.String(80), primary_key=True),
        sa.Column("demand", sa.JSON, nullable=False),
        sa.Column("told_s", sa.Float, nullable=False),
    )
