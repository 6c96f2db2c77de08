"""What each of several gateways may use of an account."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "holders",
        sa.Column("holder", sa.String(40), primary_key=True),
        sa.Column("until_s", sa.Float, nullable=False),
    )
    op.create_table(
        "holds",
        sa.Column("account", sa.String(512), primary_key=True),
        sa.Column("holder", sa.String(40), primary_key=True),
        sa.Column("amount_nanousd", sa.BigInteger, nullable=False),
        sa.Column("spare_nanousd", sa.BigInteger, nullable=False),
        sa.Column("asked", sa.Boolean, nullable=False),
    )
    op.create_index("ix_holds_holder", "holds", ["holder"])
