"""Sessions, API keys, the stream log, and definitions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "gateway_sessions",
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("protocol_version", sa.Text, nullable=False),
        sa.Column("client_info", sa.Text, nullable=False),
        sa.Column("client_capabilities", sa.Text, nullable=False),
        sa.Column("log_level", sa.Text),
        sa.Column("subscriptions", sa.ARRAY(sa.LargeBinary), nullable=False, server_default=sa.text("'{}'")),
        sa.Column("opened", _MOMENT, nullable=False),
        sa.Column("last_used", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("key", name="gateway_sessions_pkey"),
    )
    op.create_index("gateway_sessions_last_used_idx", "gateway_sessions", ["last_used"])

    op.create_table(
        "upstream_sessions",
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("slug", sa.Text, nullable=False),
        sa.Column("session", sa.Text),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("protocol_version", sa.Text, nullable=False),
        sa.Column("capabilities", sa.Text, nullable=False),
        sa.Column("sealed_id", sa.Text),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("last_used", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("holder", "slug", name="upstream_sessions_pkey"),
        sa.ForeignKeyConstraint(
            ["session"], ["gateway_sessions.key"], name="upstream_sessions_session_fkey", ondelete="CASCADE"
        ),
    )
    op.create_index(
        "upstream_sessions_session_idx",
        "upstream_sessions",
        ["session"],
        postgresql_where=sa.text("session IS NOT NULL"),
    )
    op.create_index(
        "upstream_sessions_last_used_idx",
        "upstream_sessions",
        ["last_used"],
        postgresql_where=sa.text("session IS NULL"),
    )

    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("mac", sa.LargeBinary, nullable=False),
        sa.Column("scopes", sa.ARRAY(sa.Text), nullable=False),
        sa.Column("grants", sa.ARRAY(sa.Text), nullable=False),
        sa.Column("created", _MOMENT, nullable=False),
        sa.Column("expires", _MOMENT),
        sa.Column("revoked", _MOMENT),
        sa.PrimaryKeyConstraint("id", name="api_keys_pkey"),
    )

    op.create_table(
        "streams",
        sa.Column("session", sa.Text, nullable=False),
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("opened", _MOMENT, nullable=False),
        sa.Column("ended", _MOMENT),
        sa.PrimaryKeyConstraint("session", "stream", name="streams_pkey"),
    )
    op.create_index("streams_ended_idx", "streams", ["ended"])

    op.create_table(
        "stream_events",
        sa.Column("session", sa.Text, nullable=False),
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("event", sa.LargeBinary, nullable=False),
        sa.Column("upstream_event_id", sa.LargeBinary),
        sa.PrimaryKeyConstraint("session", "stream", "seq", name="stream_events_pkey"),
        sa.ForeignKeyConstraint(
            ["session", "stream"],
            ["streams.session", "streams.stream"],
            name="stream_events_session_fkey",
            ondelete="CASCADE",
        ),
    )

    op.create_table(
        "definitions",
        sa.Column("slug", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("saved", _MOMENT, nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("slug", "version", name="definitions_pkey"),
    )


def downgrade() -> None:
    for table in ("definitions", "stream_events", "streams", "api_keys", "upstream_sessions", "gateway_sessions"):
        op.drop_table(table)
