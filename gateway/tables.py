"""The tables, as the newest migration leaves them; a test holds the two together."""

import sqlalchemy as sa

metadata = sa.MetaData()

organisations = sa.Table(
    "organisations",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("name", sa.String(200), nullable=False, unique=True),
    sa.Column("title", sa.String(200), nullable=False, server_default=""),
    sa.Column("terms", sa.JSON, nullable=False, server_default="{}"),
    sa.Column("version", sa.Integer, nullable=False, server_default="1"),
    sa.Column("created_s", sa.Float, nullable=False),
)

projects = sa.Table(
    "projects",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("organisation_id", sa.ForeignKey("organisations.id"), nullable=False),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("title", sa.String(200), nullable=False, server_default=""),
    sa.Column("terms", sa.JSON, nullable=False, server_default="{}"),
    sa.Column("version", sa.Integer, nullable=False, server_default="1"),
    sa.Column("created_s", sa.Float, nullable=False),
    sa.UniqueConstraint("organisation_id", "name"),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("project_id", sa.ForeignKey("projects.id"), nullable=False),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("prefix", sa.String(24), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("previous_sha256", sa.String(64)),
    sa.Column("previous_until_s", sa.Float),
    sa.Column("origin", sa.String(16), nullable=False),
    sa.Column("terms", sa.JSON, nullable=False, server_default="{}"),
    sa.Column("scopes", sa.JSON, nullable=False, server_default='["inference"]'),
    sa.Column("prepaid_nanousd", sa.BigInteger),
    sa.Column("version", sa.Integer, nullable=False, server_default="1"),
    sa.Column("created_s", sa.Float, nullable=False),
    sa.Column("expires_s", sa.Float),
    sa.Column("revoked_s", sa.Float),
    sa.Index("ix_api_keys_previous_sha256", "previous_sha256", unique=True),
)

# One counter per kind of fact: every write raises it, so that the others see by one number what is new.
# And the first day that the roll-up by minute holds.
revisions = sa.Table(
    "revisions",
    metadata,
    sa.Column("name", sa.String(16), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)

people = sa.Table(
    "people",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("org", sa.String(200), nullable=False),  # a name, or "*" for the whole installation
    sa.Column("email", sa.String(200), nullable=False),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("password_hash", sa.String(200), nullable=False),
    sa.Column("version", sa.Integer, nullable=False, server_default="1"),
    sa.Column("created_s", sa.Float, nullable=False),
    sa.Column("disabled_s", sa.Float),
    sa.UniqueConstraint("org", "email"),
)

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("person_id", sa.ForeignKey("people.id"), nullable=False, index=True),
    sa.Column("created_s", sa.Float, nullable=False),
    sa.Column("expires_s", sa.Float, nullable=False),
)

# Failed sign-ins of one account, known or not, by a hash of its name.
sign_in_failures = sa.Table(
    "sign_in_failures",
    metadata,
    sa.Column("account_sha256", sa.String(64), primary_key=True),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("first_s", sa.Float, nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("ts", sa.Float, nullable=False),
    sa.Column("actor", sa.String(80), nullable=False),
    sa.Column("org", sa.String(200), nullable=False),
    sa.Column("action", sa.String(40), nullable=False),
    sa.Column("subject", sa.String(200), nullable=False),
    sa.Column("before", sa.JSON),
    sa.Column("after", sa.JSON),
    sa.Index("ix_audit_org_ts", "org", "ts", "id"),
    sa.Index("ix_audit_ts", "ts", "id"),
)

prices = sa.Table(
    "prices",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("org", sa.String(200), nullable=False),
    sa.Column("model", sa.String(128), nullable=False),
    sa.Column("version", sa.String(40), nullable=False),
    sa.Column("valid_from_s", sa.Float, nullable=False),
    sa.Column("valid_to_s", sa.Float),
    sa.Column("input_nanousd", sa.BigInteger, nullable=False),
    sa.Column("cached_input_nanousd", sa.BigInteger, nullable=False),
    sa.Column("output_nanousd", sa.BigInteger, nullable=False),
    sa.Column("reasoning_nanousd", sa.BigInteger, nullable=False),
    sa.Column("request_nanousd", sa.BigInteger, nullable=False),
    sa.Column("cache_hit_ppm", sa.BigInteger, nullable=False),
    sa.Column("joined_ppm", sa.BigInteger, nullable=False),
    sa.Column("batch_ppm", sa.BigInteger, nullable=False),
    sa.Column("spot_ppm", sa.BigInteger, nullable=False),
    sa.Column("origin", sa.String(16), nullable=False),
    sa.Column("created_s", sa.Float, nullable=False),
    sa.UniqueConstraint("org", "model", "valid_from_s"),
)

# Whom no route chose a model for need no place in its index; a bound value would keep it from being used.
ROUTED = sa.literal_column("route") != sa.literal_column("''")

ledger = sa.Table(
    "ledger",
    metadata,
    sa.Column("request_id", sa.String(64), primary_key=True),
    sa.Column("ts", sa.Float, nullable=False, index=True),
    sa.Column("org", sa.String(200), nullable=False),
    sa.Column("project", sa.String(200), nullable=False),
    sa.Column("key_id", sa.String(40), nullable=False),
    sa.Column("model", sa.String(128), nullable=False),
    sa.Column("route", sa.String(128), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("cached_tokens", sa.BigInteger, nullable=False),
    sa.Column("completion_tokens", sa.BigInteger, nullable=False),
    sa.Column("amount_nanousd", sa.BigInteger, nullable=False),
    sa.Column("price_version", sa.String(40), nullable=False),
    sa.Column("source", sa.String(16), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("replicas", sa.Text, nullable=False),
    sa.Column("estimated", sa.Boolean, nullable=False),
    sa.Column("reasoning_tokens", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("baseline_nanousd", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("service", sa.String(16), nullable=False, server_default="standard"),
    sa.Column("operation", sa.String(16), nullable=False, server_default=""),
    sa.Column("end_user", sa.String(64), nullable=False, server_default=""),
    sa.Column("metadata", sa.Text, nullable=False, server_default=""),
    sa.Index("ix_ledger_key_id_ts", "key_id", "ts"),
    sa.Index("ix_ledger_org_ts", "org", "ts"),
    sa.Index("ix_ledger_route_ts", "route", "ts", sqlite_where=ROUTED, postgresql_where=ROUTED),
)

usage_daily = sa.Table(
    "usage_daily",
    metadata,
    sa.Column("day", sa.String(10), primary_key=True),
    sa.Column("org", sa.String(200), primary_key=True),
    sa.Column("project", sa.String(200), primary_key=True),
    sa.Column("key_id", sa.String(40), primary_key=True),
    sa.Column("model", sa.String(128), primary_key=True),
    sa.Column("source", sa.String(16), primary_key=True),
    sa.Column("status", sa.String(16), primary_key=True),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("cached_tokens", sa.BigInteger, nullable=False),
    sa.Column("completion_tokens", sa.BigInteger, nullable=False),
    sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
    sa.Column("amount_nanousd", sa.BigInteger, nullable=False),
    sa.Column("baseline_nanousd", sa.BigInteger, nullable=False),
)

usage_minutely = sa.Table(
    "usage_minutely",
    metadata,
    sa.Column("org", sa.String(200), primary_key=True),  # or "*": all together
    sa.Column("minute", sa.BigInteger, primary_key=True),  # since the epoch
    sa.Column("model", sa.String(128), primary_key=True),
    sa.Column("source", sa.String(16), primary_key=True),
    sa.Column("status", sa.String(16), primary_key=True),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("tokens", sa.BigInteger, nullable=False),
    sa.Column("amount_nanousd", sa.BigInteger, nullable=False),
    sa.Column("baseline_nanousd", sa.BigInteger, nullable=False),
)

spend_daily = sa.Table(
    "spend_daily",
    metadata,
    sa.Column("account", sa.String(512), primary_key=True),
    sa.Column("day", sa.String(10), primary_key=True),
    sa.Column("amount_nanousd", sa.BigInteger, nullable=False),
)

balances = sa.Table(
    "balances",
    metadata,
    sa.Column("account", sa.String(512), primary_key=True),
    sa.Column("transferred_nanousd", sa.BigInteger, nullable=False),
    sa.Column("used_nanousd", sa.BigInteger, nullable=False),
)

transfers = sa.Table(
    "transfers",
    metadata,
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

# What each gateway may use of an account that several share; whoever does not renew its lease holds nothing.
holders = sa.Table(
    "holders",
    metadata,
    sa.Column("holder", sa.String(40), primary_key=True),
    sa.Column("until_s", sa.Float, nullable=False),
)

holds = sa.Table(
    "holds",
    metadata,
    sa.Column("account", sa.String(512), primary_key=True),
    sa.Column("holder", sa.String(40), primary_key=True, index=True),
    sa.Column("amount_nanousd", sa.BigInteger, nullable=False),
    sa.Column("spare_nanousd", sa.BigInteger, nullable=False),
    sa.Column("asked", sa.Boolean, nullable=False),
)

journal_segments = sa.Table(
    "journal_segments",
    metadata,
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("carried_bytes", sa.BigInteger, nullable=False),
)

# Each threshold once: the unique row decides which of several processes gives the alert.
alerts = sa.Table(
    "alerts",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("ts", sa.Float, nullable=False),
    sa.Column("account", sa.String(512), nullable=False),
    sa.Column("org", sa.String(200), nullable=False),
    sa.Column("project", sa.String(200), nullable=False),
    sa.Column("key_id", sa.String(40), nullable=False),
    sa.Column("kind", sa.String(8), nullable=False),
    sa.Column("period", sa.String(40), nullable=False),
    sa.Column("threshold_percent", sa.Integer, nullable=False),
    sa.Column("limit_nanousd", sa.BigInteger, nullable=False),
    sa.Column("used_nanousd", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("account", "kind", "period", "threshold_percent"),
    sa.Index("ix_alerts_org_ts", "org", "ts", "id"),
    sa.Index("ix_alerts_ts", "ts", "id"),
)

webhook_endpoints = sa.Table(
    "webhook_endpoints",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("org", sa.String(200), nullable=False, index=True),
    sa.Column("url", sa.String(2000), nullable=False),
    sa.Column("created_s", sa.Float, nullable=False),
)

webhook_deliveries = sa.Table(
    "webhook_deliveries",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("endpoint_id", sa.ForeignKey("webhook_endpoints.id"), nullable=False),
    sa.Column("event", sa.String(40), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("created_s", sa.Float, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_s", sa.Float, nullable=False),
    sa.Column("leased_until_s", sa.Float, nullable=False),
    sa.Column("last_status", sa.Integer),
    sa.Column("last_error", sa.String(200), nullable=False),
    sa.Column("done_s", sa.Float),
    sa.Index("ix_webhook_deliveries_state_next_s", "state", "next_s"),
    sa.Index("ix_webhook_deliveries_endpoint_id_created_s", "endpoint_id", "created_s", "id"),
)

# Which share each version of a model has, and had before the last shift.
rollouts = sa.Table(
    "rollouts",
    metadata,
    sa.Column("model", sa.String(128), primary_key=True),
    sa.Column("shares", sa.JSON, nullable=False),
    sa.Column("previous", sa.JSON),
    sa.Column("changed_s", sa.Float, nullable=False),
)

# How good answers of a route's tiers were, as ``routing.labels`` has them; the id is the order.
routing_labels = sa.Table(
    "routing_labels",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("route", sa.String(128), nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Index("ix_routing_labels_route_id", "route", "id"),
)

# What labels taught, by route and tenant; without a tenant it is the route's curve of quality. What a reset
# withdrew stays beside it, until that is taken back.
routing_lessons = sa.Table(
    "routing_lessons",
    metadata,
    sa.Column("route", sa.String(128), primary_key=True),
    sa.Column("tenant", sa.String(512), primary_key=True),
    sa.Column("in_force", sa.Boolean, nullable=False),
    sa.Column("was_in_force", sa.Boolean, primary_key=True),  # when the route was reset
    sa.Column("weights", sa.String(16), nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("trial", sa.JSON),
    sa.Column("changed_s", sa.Float, nullable=False),
)

# Up to which label a route's labels do not count, and up to which one before the last reset.
routing_resets = sa.Table(
    "routing_resets",
    metadata,
    sa.Column("route", sa.String(128), primary_key=True),
    sa.Column("from_id", sa.BigInteger, nullable=False),
    sa.Column("before_id", sa.BigInteger, nullable=False),
)

# Who runs the fleet; whoever does not renew its lease in time is taken for dead.
fleet_lease = sa.Table(
    "fleet_lease",
    metadata,
    sa.Column("name", sa.String(16), primary_key=True),
    sa.Column("owner", sa.String(80), nullable=False),
    sa.Column("until_s", sa.Float, nullable=False),
)

# What operators have the fleet do; the answer is its, once it was done.
fleet_orders = sa.Table(
    "fleet_orders",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("asked", sa.JSON, nullable=False),
    sa.Column("asked_s", sa.Float, nullable=False),
    sa.Column("answer", sa.JSON),
)

# How many replicas the fleet wants of each model; replaced as a whole by the holder of the lease.
fleet_models = sa.Table(
    "fleet_models",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("scaling", sa.JSON, nullable=False),
    sa.Column("told_s", sa.Float, nullable=False),
)

# What the fleet runs, for the gateways; replaced as a whole by the holder of the lease.
fleet_replicas = sa.Table(
    "fleet_replicas",
    metadata,
    sa.Column("id", sa.String(200), primary_key=True),
    sa.Column("model", sa.String(128), nullable=False),
    sa.Column("state", sa.JSON, nullable=False),
    sa.Column("told_s", sa.Float, nullable=False),
)

# What each gateway has to do, for the fleet.
fleet_demand = sa.Table(
    "fleet_demand",
    metadata,
    sa.Column("gateway", sa.String(80), primary_key=True),
    sa.Column("demand", sa.JSON, nullable=False),
    sa.Column("told_s", sa.Float, nullable=False),
)

# Keys by hash; the answer is what the first client got, as it was recorded.
idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("owner", sa.String(40), nullable=False, index=True),
    sa.Column("leased_until_s", sa.Float, nullable=False),
    sa.Column("expires_s", sa.Float, nullable=False, index=True),
    sa.Column("answer", sa.LargeBinary),
)
