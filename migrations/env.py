"""How Alembic runs here: always on a connection given by gateway/storage/migrate.py, which holds the lock and the
transaction. There is no alembic.ini; `mcp-gateway db upgrade` is the command."""

from __future__ import annotations

from alembic import context

from catalogue import tables as catalogue_tables
from gateway.storage import tables as gateway_tables

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=[catalogue_tables.metadata, gateway_tables.metadata],
    compare_type=True,
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()
