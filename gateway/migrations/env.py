"""Runs the migrations on the connection that ``gateway.database.migrate`` hands over."""

from alembic import context

from gateway.tables import metadata

connection = context.config.attributes["connection"]
if connection.dialect.name == "postgresql":
    # Two gateways that start together must not both create the tables.
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7731002)")
else:
    # The same; and without it SQLite's driver would leave half of the tables behind a start that was killed.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
context.configure(connection=connection, target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
