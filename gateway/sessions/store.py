"""The port behind which gateway sessions are kept. Adapters: storage/sessions.py, and one in memory for tests."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.sessions.model import UpstreamSession


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A gateway session as it is kept: without its id, which only its client knows. `last_used` is Unix time."""

    principal: str
    endpoint: str
    protocol_version: str
    client_info: Mapping[str, Any]
    client_capabilities: Mapping[str, Any]
    last_used: float
    log_level: str | None = None
    subscriptions: frozenset[str] = frozenset()


class SessionStore(Protocol):
    """Sessions by key (`session_key`), upstream sessions by holder key (`session_key` or `principal_key`).

    Every method is one atomic step and raises `StorageUnavailable` when the store does not answer.
    """

    async def create(self, key: str, session: StoredSession) -> None:
        """Keeps a new session."""

    async def find(self, key: str) -> tuple[StoredSession, dict[str, UpstreamSession]] | None:
        """The session and its upstream sessions by slug."""

    async def delete(self, key: str) -> list[UpstreamSession]:
        """Forgets a session and returns the upstream sessions it had; nobody attaches another one meanwhile."""

    async def set_log_level(self, key: str, level: str | None) -> bool:
        """False when the session is gone."""

    async def subscribe(self, key: str, uri: str) -> bool:
        """Adds a subscription, once. False when the session is gone."""

    async def unsubscribe(self, key: str, uri: str) -> bool:
        """Removes a subscription if it is there. False when the session is gone."""

    async def find_upstreams(self, holder: str) -> dict[str, UpstreamSession]:
        """The holder's upstream sessions by slug."""

    async def attach(
        self, holder: str, opened: UpstreamSession, replacing: UpstreamSession | None, now: float
    ) -> UpstreamSession | None:
        """Keeps `opened` if the slug is free or still holds `replacing`; returns the one that is kept afterwards.

        None when the holder is a session that is gone.
        """

    async def detach(self, holder: str, lost: UpstreamSession) -> bool:
        """Forgets `lost`, unless another one has taken its place; True if it was there."""

    async def touch(self, keys: Collection[str], now: float, apart: float) -> set[str]:
        """Notes the use of holders whose noted use is at least `apart` seconds old; returns those that still exist."""

    async def purge(self, unused_since: float) -> list[tuple[str, UpstreamSession]]:
        """Forgets what was last used before that time; returns (holder, upstream session) for all that went.

        When another replica is at it, nothing is done and nothing returned.
        """
