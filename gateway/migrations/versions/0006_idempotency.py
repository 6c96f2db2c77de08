"""Idempotency keys and the answers kept for them."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "idempotency_keys",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("owner", sa.String(40), nullable=False, index=True),
        sa.Column("leased_until_s", sa.Float, nullable=False),
        sa.Column("expires_s", sa.Float, nullable=False, index=True),
        sa.Column("answer", sa.LargeBinary),
    )
