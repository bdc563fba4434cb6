"""A replica's copies of sessions: made from what is stored, and brought up to date in place."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from gateway.sessions.interning import Shared
from gateway.sessions.model import GatewaySession, UpstreamSession, UpstreamSessions
from gateway.sessions.store import StoredSession


class Copies:
    """Makes copies that share what many sessions have in common."""

    def __init__(self) -> None:
        self._shared = Shared()

    def make(
        self, session_id: str, key: str, stored: StoredSession, by_slug: dict[str, UpstreamSession]
    ) -> GatewaySession:
        return GatewaySession(
            id=session_id,
            principal=sys.intern(stored.principal),
            endpoint=sys.intern(stored.endpoint),
            protocol_version=sys.intern(stored.protocol_version),
            client_info=self._shared.of(stored.client_info),
            client_capabilities=self._shared.of(stored.client_capabilities),
            log_level=stored.log_level,
            subscriptions=stored.subscriptions,
            upstreams=UpstreamSessions(key, by_slug),
        )


def refresh_session(session: GatewaySession, stored: StoredSession, by_slug: Mapping[str, UpstreamSession]) -> None:
    """Brings up to date what can change in a session's life."""
    session.log_level = stored.log_level
    session.subscriptions = stored.subscriptions
    refresh_upstreams(session.upstreams, by_slug)


def refresh_upstreams(holder: UpstreamSessions, by_slug: Mapping[str, UpstreamSession]) -> None:
    """Takes over what was read, keeping known objects where they are equal: callers compare them by identity."""
    known = holder.by_slug
    holder.by_slug = {slug: known[slug] if known.get(slug) == read else read for slug, read in by_slug.items()}
