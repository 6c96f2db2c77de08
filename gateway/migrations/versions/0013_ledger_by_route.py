"""An index by which a page of one route's requests is found, or that there are none: of routed ones only."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

ROUTED = sa.text("route <> ''")


def upgrade() -> None:
    """Add the index."""
    op.create_index(
        "ix_ledger_route_ts", "ledger", ["route", "ts"], sqlite_where=ROUTED, postgresql_where=ROUTED
    )
