"""The roll-up by minute. What it holds in full, and from which day on, depends on who may still write.

A SQLite file has one writer, of this version: the last days are added up here. Over PostgreSQL gateways of
the version before go on for a while and know nothing of the table: it holds all from the first midnight on
that is an hour away, and until then the ledger's rows are read as before.
"""

import time

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

DAY_S = 86400
FILLED_DAYS = 2
ROLLED_OUT_S = 3600  # gateways of the version before are gone by then


def upgrade() -> None:
    """Add the table, and fill it where nobody else writes."""
    op.create_table(
        "usage_minutely",
        sa.Column("org", sa.String(200), primary_key=True),
        sa.Column("minute", sa.BigInteger, primary_key=True),
        sa.Column("model", sa.String(128), primary_key=True),
        sa.Column("source", sa.String(16), primary_key=True),
        sa.Column("status", sa.String(16), primary_key=True),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("amount_nanousd", sa.BigInteger, nullable=False),
        sa.Column("baseline_nanousd", sa.BigInteger, nullable=False),
    )
    used = "SELECT 1 FROM ledger UNION ALL SELECT 1 FROM api_keys LIMIT 1"
    if op.get_bind().execute(sa.text(used)).first() is None:
        return  # a new database: nothing is missing of nothing, and no gateway of the version before knows it
    now_s = int(time.time())
    if op.get_bind().dialect.name == "postgresql":
        begins = (now_s + ROLLED_OUT_S) // DAY_S + 1
    else:
        begins = now_s // DAY_S - FILLED_DAYS
        _fill(begins)
    op.execute(f"INSERT INTO revisions (name, value) VALUES ('minutes', {begins})")  # noqa: S608


def _fill(begins: int) -> None:
    """Add up the rows from a day on: by organisation, then all together."""
    minute = "CAST(ts AS INTEGER) / 60"
    op.execute(
        f"INSERT INTO usage_minutely SELECT org, {minute}, model, source, status, count(*), "  # noqa: S608
        "sum(prompt_tokens + completion_tokens), sum(amount_nanousd), sum(baseline_nanousd) "
        f"FROM ledger WHERE ts >= {begins * DAY_S} GROUP BY org, {minute}, model, source, status"
    )
    op.execute(
        "INSERT INTO usage_minutely SELECT '*', minute, model, source, status, sum(requests), sum(tokens), "
        "sum(amount_nanousd), sum(baseline_nanousd) FROM usage_minutely "
        "GROUP BY minute, model, source, status"
    )
