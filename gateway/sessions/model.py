"""Gateway sessions, and the upstream sessions that are opened on their behalf."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Clock = Callable[[], float]
"""Unix time in seconds, as `time.time`."""


@dataclass(frozen=True, slots=True)
class UpstreamSession:
    """One session of ours at one upstream.

    `session_id` is the upstream's `Mcp-Session-Id`, None if it issued none; `capabilities` are the upstream's.
    """

    slug: str
    version: str
    session_id: str | None
    protocol_version: str
    capabilities: Mapping[str, Any]


@dataclass(slots=True)
class UpstreamSessions:
    """What a holder (a gateway session, or a principal of session-less clients) has at the upstreams.

    `by_slug` is replaced as a whole and never changed in place, so whoever iterates over it is safe.
    """

    key: str
    by_slug: dict[str, UpstreamSession]


@dataclass(slots=True)
class GatewaySession:
    """A client's session with us. `endpoint` is "" for the federated endpoint, else a slug, or "sse".

    `subscriptions` are exposed resource URIs. The object is a replica's copy: it is brought up to date in place when
    the session is next resolved after a change elsewhere.
    """

    id: str
    principal: str
    endpoint: str
    protocol_version: str
    client_info: Mapping[str, Any]
    client_capabilities: Mapping[str, Any]
    log_level: str | None
    subscriptions: frozenset[str]
    upstreams: UpstreamSessions


def session_key(session_id: str) -> str:
    """The key of a gateway session wherever it is kept or named; its id, which opens the session, stays secret."""
    return "s:" + _hashed(session_id)


def principal_key(principal: str, fingerprint: str) -> str:
    """The key of what a principal's session-less clients hold; `fingerprint` may be text of any length."""
    return f"p:{principal}:{_hashed(fingerprint) if fingerprint else ''}"


def _hashed(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")
