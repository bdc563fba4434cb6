"""Two replicas' session registries on one store in memory, and a clock to turn."""

from __future__ import annotations

from datetime import timedelta

from gateway.errors import SessionGone
from gateway.sessions.model import GatewaySession, UpstreamSession
from gateway.sessions.registry import SessionRegistry
from tests.support.stores import MemoryBus, MemoryChanges, MemorySessionStore

GITHUB = UpstreamSession("github", "1", "upstream-1", "2025-11-25", {"tools": {}})
REOPENED = UpstreamSession("github", "1", "upstream-2", "2025-11-25", {"tools": {}})
CLIENT = {"name": "tests", "version": "1"}


class Cluster:
    """Two replicas on one store, and a clock to turn."""

    def __init__(self, *, cache_size: int = 1_000) -> None:
        self.now = 1_800_000_000.0
        self.bus = MemoryBus()
        self.store = MemorySessionStore()
        self.ended: list[tuple[str, UpstreamSession]] = []
        self.changes = [MemoryChanges(self.bus), MemoryChanges(self.bus)]
        self.one, self.other = (
            SessionRegistry(
                self.store,
                changes,
                clock=self.clock,
                idle=timedelta(hours=1),
                cache_size=cache_size,
                expired=self.ended.extend,
            )
            for changes in self.changes
        )

    def clock(self) -> float:
        return self.now

    async def open(self) -> GatewaySession:
        return await self.one.open(
            principal="key:a",
            endpoint="",
            protocol_version="2025-11-25",
            client_info=CLIENT,
            client_capabilities={"elicitation": {}},
        )


async def gone(registry: SessionRegistry, session: GatewaySession) -> bool:
    if registry.find_cached(session.id, session.principal, session.endpoint) is not None:
        return False
    try:
        await registry.resolve(session.id, session.principal, session.endpoint)
    except SessionGone:
        return True
    return False
