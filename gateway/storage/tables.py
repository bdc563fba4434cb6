"""The gateway's own tables. What other people wrote (names, capabilities, event ids) is kept as JSON text or bytes:
Postgres' text and jsonb refuse NUL and lone surrogates, which JSON strings may contain."""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    MetaData,
    Table,
    Text,
    text,
)

NAMING = {
    "pk": "%(table_name)s_pkey",
    "fk": "%(table_name)s_%(column_0_name)s_fkey",
    "ix": "%(table_name)s_%(column_0_name)s_idx",
}

metadata = MetaData(naming_convention=NAMING)

gateway_sessions = Table(
    "gateway_sessions",
    metadata,
    # "s:" and the hash of the id; the id itself is known to its client only.
    Column("key", Text, primary_key=True),
    Column("principal", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("protocol_version", Text, nullable=False),
    Column("client_info", Text, nullable=False),
    Column("client_capabilities", Text, nullable=False),
    Column("log_level", Text),
    Column("subscriptions", ARRAY(LargeBinary), nullable=False, server_default=text("'{}'")),
    Column("opened", DateTime(timezone=True), nullable=False),
    Column("last_used", DateTime(timezone=True), nullable=False),
    Index(None, "last_used"),
)

upstream_sessions = Table(
    "upstream_sessions",
    metadata,
    Column("holder", Text, primary_key=True),
    Column("slug", Text, primary_key=True),
    # The holder again when it is a gateway session, so that the row goes with it and none is added to one that went.
    Column("session", Text, ForeignKey("gateway_sessions.key", ondelete="CASCADE")),
    Column("version", Text, nullable=False),
    Column("protocol_version", Text, nullable=False),
    Column("capabilities", Text, nullable=False),
    # The upstream's session id, sealed; it opens the session there. Null if it issued none.
    Column("sealed_id", Text),
    # A MAC over what makes this session this one: the sealed id differs each time it is sealed.
    Column("fingerprint", LargeBinary, nullable=False),
    Column("last_used", DateTime(timezone=True), nullable=False),
    Index("upstream_sessions_session_idx", "session", postgresql_where=text("session IS NOT NULL")),
    Index("upstream_sessions_last_used_idx", "last_used", postgresql_where=text("session IS NULL")),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    # Stays the same when the key is rotated, so that sessions and grants stay with their owner.
    Column("principal", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("mac", LargeBinary, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("grants", ARRAY(Text), nullable=False),
    Column("created", DateTime(timezone=True), nullable=False),
    Column("expires", DateTime(timezone=True)),
    Column("revoked", DateTime(timezone=True)),
)

streams = Table(
    "streams",
    metadata,
    Column("session", Text, primary_key=True),
    Column("stream", Text, primary_key=True),
    Column("opened", DateTime(timezone=True), nullable=False),
    Column("ended", DateTime(timezone=True)),
    Index(None, "ended"),
)

stream_events = Table(
    "stream_events",
    metadata,
    Column("session", Text, primary_key=True),
    Column("stream", Text, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("event", LargeBinary, nullable=False),
    Column("upstream_event_id", LargeBinary),
    ForeignKeyConstraint(["session", "stream"], ["streams.session", "streams.stream"], ondelete="CASCADE"),
)
