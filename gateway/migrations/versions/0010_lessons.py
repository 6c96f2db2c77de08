"""What routing learns: labels of its traffic, and what of their teaching is in force."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "routing_labels",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("route", sa.String(128), nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_routing_labels_route_id", "routing_labels", ["route", "id"])
    op.create_table(
        "routing_lessons",
        sa.Column("route", sa.String(128), primary_key=True),
        sa.Column("tenant", sa.String(512), primary_key=True),
        sa.Column("in_force", sa.Boolean, nullable=False),
        sa.Column("was_in_force", sa.Boolean, nullable=False),
        sa.Column("weights", sa.String(16), nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("trial", sa.JSON),
        sa.Column("changed_s", sa.Float, nullable=False),
    )
    op.create_table(
        "routing_resets",
        sa.Column("route", sa.String(128), primary_key=True),
        sa.Column("from_id", sa.BigInteger, nullable=False),
        sa.Column("before_id", sa.BigInteger, nullable=False),
    )
