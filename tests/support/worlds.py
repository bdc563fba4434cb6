"""Everything from dispatch to the door of the upstreams, in memory; behind the door, what a test says."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from catalogue.live import Catalogue
from catalogue.model import Definition, Server
from gateway.bridge.lists import Lists
from gateway.bridge.request_state import RequestStates
from gateway.calls import Answer, Outlet
from gateway.dispatch import Dispatch
from gateway.keys import KeyRing
from gateway.policy.pipeline import CallPermit
from gateway.policy.standard import standard
from gateway.sessions.registry import SessionRegistry
from gateway.upstream.pool import Pool
from gateway.upstream.watches import Updated
from tests.support.calls import FakeClock, MemoryRecorder, catalogue
from tests.support.stores import MemoryChanges, MemorySessionStore

RING = KeyRing.parse(KeyRing.generate())
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

Behind = Callable[[CallPermit, Outlet], Awaitable[Answer]]
Watched = Callable[[CallPermit, Updated], Awaitable[None]]


async def nothing_said(permit: CallPermit, outlet: Outlet) -> Answer:
    """An upstream whose answer is of no interest."""
    del permit, outlet
    return Answer({})


async def nothing_changed(permit: CallPermit, updated: Updated) -> None:
    """An upstream that ends every watch at once."""
    del permit, updated


class ScriptedPool(Pool):
    """A pool whose upstreams are one function; `permits` are those that came through, in order."""

    def __init__(self, of: Catalogue, registry: SessionRegistry) -> None:
        super().__init__(of, registry, tls=TLS, refresh=60.0, published=lambda server, found: None)
        self.permits: list[CallPermit] = []
        self.behind: Behind = nothing_said
        self.watched: Watched = nothing_changed

    async def forward(self, permit: CallPermit, outlet: Outlet) -> Answer:
        """To the function."""
        self.permits.append(permit)
        return await self.behind(permit, outlet)

    async def subscribe(self, permit: CallPermit, outlet: Outlet) -> Answer:
        """To the function too."""
        return await self.forward(permit, outlet)

    async def watch(self, permit: CallPermit, updated: Updated) -> None:
        """To a function of its own, for as long as that takes."""
        self.permits.append(permit)
        await self.watched(permit, updated)


class World:
    """A replica without edge and without storage."""

    def __init__(
        self, *published: tuple[Server, Definition], page_size: int = 1000, cache_bytes: int = 1 << 20
    ) -> None:
        self.clock = FakeClock()
        self.catalogue = catalogue(*published, clock=self.clock)
        self.recorder = MemoryRecorder()
        self.changes = MemoryChanges()
        self.store = MemorySessionStore()
        self.registry = SessionRegistry(self.store, self.changes, clock=self.clock, idle=timedelta(hours=1))
        self.pool = ScriptedPool(self.catalogue, self.registry)
        self.lists = Lists(RING, page_size=page_size, cache_bytes=cache_bytes, clock=self.clock)
        self.pipeline = standard(self.recorder)
        states = RequestStates(RING, clock=self.clock)
        self.dispatch = Dispatch(self.catalogue, self.pipeline, self.pool, self.lists, states)

    def answers(self, value: dict[str, Any], raw: bytes | None = None) -> None:
        """What every call is answered with from now on."""

        async def behind(permit: CallPermit, outlet: Outlet) -> Answer:
            del permit, outlet
            return Answer(value, raw)

        self.pool.behind = behind

    def fails(self, error: Exception) -> None:
        """With what every call fails from now on."""

        async def behind(permit: CallPermit, outlet: Outlet) -> Answer:
            raise error

        self.pool.behind = behind
