"""Terms at every level, keys that expire and rotate, people, sessions, the audit log, revisions."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

OLD_LIMITS = ("rpm", "tpm", "concurrency", "budget_nanousd", "floor_nanousd", "band", "models")


def upgrade() -> None:
    """Widen the tenants' tables; the limits of keys move into their terms."""
    for table in ("organisations", "projects", "api_keys"):
        op.add_column(table, sa.Column("terms", sa.JSON, nullable=False, server_default="{}"))
        op.add_column(table, sa.Column("version", sa.Integer, nullable=False, server_default="1"))
    for table in ("organisations", "projects"):
        op.add_column(table, sa.Column("title", sa.String(200), nullable=False, server_default=""))
    op.add_column("api_keys", sa.Column("scopes", sa.JSON, nullable=False, server_default='["inference"]'))
    op.add_column("api_keys", sa.Column("previous_sha256", sa.String(64)))
    op.add_column("api_keys", sa.Column("previous_until_s", sa.Float))
    op.add_column("api_keys", sa.Column("expires_s", sa.Float))
    op.create_index("ix_api_keys_previous_sha256", "api_keys", ["previous_sha256"], unique=True)
    _move_limits()
    for column in OLD_LIMITS:
        op.drop_column("api_keys", column)
    _create_revisions()
    _create_people()
    _create_audit()


def _move_limits() -> None:
    connection = op.get_bind()
    columns = ", ".join(("id", "prepaid_nanousd", *OLD_LIMITS))
    rows = connection.exec_driver_sql(f"SELECT {columns} FROM api_keys").mappings().all()  # noqa: S608  # fixed names
    for row in rows:
        models = row["models"]
        found = {
            **{name: row[name] for name in OLD_LIMITS},
            "models": json.loads(models) if isinstance(models, str) else models,
            "credit": None if row["prepaid_nanousd"] is None else "prepaid",
        }
        terms = {name: value for name, value in found.items() if value is not None and value != []}
        connection.execute(
            sa.text("UPDATE api_keys SET terms = :terms WHERE id = :id").bindparams(
                sa.bindparam("terms", type_=sa.JSON)
            ),
            {"terms": terms, "id": row["id"]},
        )


def _create_revisions() -> None:
    revisions = op.create_table(
        "revisions",
        sa.Column("name", sa.String(16), primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(revisions, [{"name": "tenants", "value": 1}])


def _create_people() -> None:
    op.create_table(
        "people",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("org", sa.String(200), nullable=False),
        sa.Column("email", sa.String(200), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("password_hash", sa.String(200), nullable=False),
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.Column("disabled_s", sa.Float),
        sa.UniqueConstraint("org", "email"),
    )
    op.create_table(
        "sessions",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("person_id", sa.String(40), sa.ForeignKey("people.id"), nullable=False, index=True),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.Column("expires_s", sa.Float, nullable=False),
    )
    op.create_table(
        "sign_in_failures",
        sa.Column("account_sha256", sa.String(64), primary_key=True),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("first_s", sa.Float, nullable=False),
    )


def _create_audit() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("ts", sa.Float, nullable=False),
        sa.Column("actor", sa.String(80), nullable=False),
        sa.Column("org", sa.String(200), nullable=False),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("subject", sa.String(200), nullable=False),
        sa.Column("before", sa.JSON),
        sa.Column("after", sa.JSON),
    )
    op.create_index("ix_audit_org_ts", "audit", ["org", "ts", "id"])
    op.create_index("ix_audit_ts", "audit", ["ts", "id"])
