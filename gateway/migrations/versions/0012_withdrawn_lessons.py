"""A lesson that a reset withdrew stands beside what is taught afterwards.

The columns stay, so that gateways of the version before go on for a while.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

KEY = ["route", "tenant", "was_in_force"]


def upgrade() -> None:
    """Widen the primary key."""
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint("routing_lessons_pkey", "routing_lessons")
        op.create_primary_key("routing_lessons_pkey", "routing_lessons", KEY)
        return
    found = sa.Table("routing_lessons", sa.MetaData(), autoload_with=op.get_bind())
    columns = [sa.Column(one.name, one.type, nullable=one.nullable) for one in found.columns]
    wider = sa.Table(found.name, sa.MetaData(), *columns, sa.PrimaryKeyConstraint(*KEY))
    with op.batch_alter_table(found.name, copy_from=wider, recreate="always"):
        pass
