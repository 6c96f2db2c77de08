"""What operators have a fleet apart do, and how many replicas it wants of each model."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "fleet_orders",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("asked", sa.JSON, nullable=False),
        sa.Column("asked_s", sa.Float, nullable=False),
        sa.Column("answer", sa.JSON),
    )
    op.create_table(
        "fleet_models",
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("scaling", sa.JSON, nullable=False),
        sa.Column("told_s", sa.Float, nullable=False),
    )
