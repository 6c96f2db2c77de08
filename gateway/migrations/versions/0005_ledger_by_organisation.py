"""An index by which a page of one organisation's requests is found."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the index."""
    op.create_index("ix_ledger_org_ts", "ledger", ["org", "ts"])
