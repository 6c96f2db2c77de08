"""The price book with validity, the ledger's further columns, transfers, balances and roll-ups."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

PPM = 1_000_000
AMOUNTS = (
    "requests",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "amount_nanousd",
    "baseline_nanousd",
)


def upgrade() -> None:
    """Change the tables; what was spent before is rolled up, so that the books agree from the start."""
    _prices()
    _ledger()
    _rollups()
    _transfers()
    _carry_over()


def _prices() -> None:
    old = [dict(row) for row in op.get_bind().execute(sa.text("SELECT * FROM prices")).mappings()]
    op.drop_table("prices")
    prices = op.create_table(
        "prices",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("org", sa.String(200), nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("version", sa.String(40), nullable=False),
        sa.Column("valid_from_s", sa.Float, nullable=False),
        sa.Column("valid_to_s", sa.Float),
        *(
            sa.Column(name, sa.BigInteger, nullable=False)
            for name in (
                "input_nanousd",
                "cached_input_nanousd",
                "output_nanousd",
                "reasoning_nanousd",
                "request_nanousd",
                "cache_hit_ppm",
                "joined_ppm",
                "batch_ppm",
                "spot_ppm",
            )
        ),
        sa.Column("origin", sa.String(16), nullable=False),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.UniqueConstraint("org", "model", "valid_from_s"),
    )
    op.bulk_insert(
        prices,
        [
            {
                **row,
                "id": row["version"],
                "org": "",
                "valid_from_s": row["created_s"],
                "reasoning_nanousd": row["output_nanousd"],
                "request_nanousd": 0,
                "batch_ppm": PPM,
                "spot_ppm": PPM,
                "origin": "file",
            }
            for row in old
        ],
    )


def _ledger() -> None:
    for column in (
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("baseline_nanousd", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("service", sa.String(16), nullable=False, server_default="standard"),
        sa.Column("operation", sa.String(16), nullable=False, server_default=""),
        sa.Column("end_user", sa.String(64), nullable=False, server_default=""),
        sa.Column("metadata", sa.Text, nullable=False, server_default=""),
    ):
        op.add_column("ledger", column)
    op.drop_index("ix_ledger_key_id", "ledger")
    op.create_index("ix_ledger_key_id_ts", "ledger", ["key_id", "ts"])
    op.create_index("ix_ledger_org_ts", "ledger", ["org", "ts"])


def _rollups() -> None:
    op.create_table(
        "usage_daily",
        sa.Column("day", sa.String(10), primary_key=True),
        sa.Column("org", sa.String(200), primary_key=True),
        sa.Column("project", sa.String(200), primary_key=True),
        sa.Column("key_id", sa.String(40), primary_key=True),
        sa.Column("model", sa.String(128), primary_key=True),
        sa.Column("source", sa.String(16), primary_key=True),
        sa.Column("status", sa.String(16), primary_key=True),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in AMOUNTS),
    )
    op.create_table(
        "spend_daily",
        sa.Column("account", sa.String(512), primary_key=True),
        sa.Column("day", sa.String(10), primary_key=True),
        sa.Column("amount_nanousd", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "balances",
        sa.Column("account", sa.String(512), primary_key=True),
        sa.Column("transferred_nanousd", sa.BigInteger, nullable=False),
        sa.Column("used_nanousd", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "journal_segments",
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("carried_bytes", sa.BigInteger, nullable=False),
    )


def _transfers() -> None:
    op.create_table(
        "transfers",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("ts", sa.Float, nullable=False, index=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("debit", sa.String(512), nullable=False, index=True),
        sa.Column("credit", sa.String(512), nullable=False, index=True),
        sa.Column("amount_nanousd", sa.BigInteger, nullable=False),
        sa.Column("org", sa.String(200), nullable=False, index=True),
        sa.Column("used_nanousd", sa.BigInteger, nullable=False),
        sa.Column("request_id", sa.String(64)),
        sa.Column("expires_s", sa.Float, index=True),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("idempotency_key", sa.String(200), nullable=False, unique=True),
    )


def _carry_over() -> None:
    postgres = op.get_bind().dialect.name == "postgresql"
    day = (
        "to_char(to_timestamp(floor(ts)) AT TIME ZONE 'UTC', 'YYYY-MM-DD')"
        if postgres
        else "date(CAST(ts AS INTEGER), 'unixepoch')"
    )
    op.execute(
        f"INSERT INTO usage_daily SELECT {day}, org, project, key_id, model, source, status, count(*), "  # noqa: S608
        "sum(prompt_tokens), sum(cached_tokens), sum(completion_tokens), 0, sum(amount_nanousd), 0 "
        f"FROM ledger GROUP BY {day}, org, project, key_id, model, source, status"
    )
    for account in ("'org:' || org", "'project:' || org || '/' || project", "'key:' || key_id"):
        op.execute(
            f"INSERT INTO spend_daily SELECT {account}, day, sum(amount_nanousd) "  # noqa: S608
            f"FROM usage_daily GROUP BY {account}, day"
        )
    op.execute(
        "INSERT INTO balances SELECT account, 0, sum(amount_nanousd) FROM spend_daily GROUP BY account"
    )
    op.execute(
        "INSERT INTO balances SELECT 'revenue', 0, -sum(amount_nanousd) FROM usage_daily HAVING count(*) > 0"
    )
