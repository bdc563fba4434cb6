"""All upstreams of this process: forwards permitted calls, runs discovery, watches resources."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import structlog

from catalogue.live import Catalogue
from catalogue.model import Definition, Item, Kind, Server
from gateway.calls import Answer, Outlet
from gateway.errors import UpstreamError, UpstreamTimeout
from gateway.policy.pipeline import CallPermit
from gateway.sessions.model import UpstreamSession, UpstreamSessions
from gateway.sessions.registry import SessionRegistry
from gateway.upstream.discovery import LIST_CHANGES, Discovery
from gateway.upstream.legacy import session_key
from gateway.upstream.permits import Housekeeping, HousekeepingPermit
from gateway.upstream.upstream import Era, Upstream
from gateway.upstream.watches import UPDATED, Updated, Watches

log = structlog.get_logger()

FIRST_LIST_SECONDS: Final = 1.5
"""A first list waits at most this long for upstreams that have not answered yet."""
QUIET_SECONDS: Final = 0.4
"""It stops waiting earlier when no upstream has answered for this long."""
TELLING_SECONDS: Final = 5.0
"""What a client has us tell upstreams beside its calls is waited for no longer than this."""


class Pool:
    """One `Upstream` and one `Discovery` per server version."""

    def __init__(
        self,
        catalogue: Catalogue,
        registry: SessionRegistry,
        *,
        tls: ssl.SSLContext,
        refresh: float,
        published: Callable[[Server, Definition], None],
    ) -> None:
        self._catalogue = catalogue
        self._published = published
        self._watches = Watches(self._list_changed)
        self._upstreams: dict[Server, Upstream] = {}
        self._discoveries: dict[Server, Discovery] = {}
        self._by_key: dict[str, Upstream] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._last_settled = time.monotonic()
        self._settling = asyncio.Event()
        for server in catalogue.servers:
            upstream = Upstream(server, tls, registry, self._announce)
            discovery = Discovery(upstream, self._publish, refresh)
            upstream.relist = discovery.fetch
            upstream.find_item = self._finder(server)
            self._upstreams[server] = upstream
            self._discoveries[server] = discovery
            self._by_key[session_key(server)] = upstream

    def start(self) -> None:
        """Starts discovery of every upstream, all at once."""
        self._last_settled = time.monotonic()
        self._tasks = [
            asyncio.create_task(discovery.run(), name=f"discovery {server.slug}")
            for server, discovery in self._discoveries.items()
        ]

    async def close(self) -> None:
        """Ends discovery and closes every connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(upstream.close() for upstream in self._upstreams.values()), return_exceptions=True)

    # --- the request path

    async def forward(self, permit: CallPermit, outlet: Outlet) -> Answer:
        """Sends a permitted call to its upstream; there is no other way to send one."""
        return await self._upstreams[permit.call.server].forward(permit, outlet)

    async def answer(
        self, upstream_key: str, holder: UpstreamSessions, upstream_id: str | int, body: dict[str, Any]
    ) -> None:
        """Posts a client's answer to a server request, on the upstream session on which it was asked."""
        upstream = self._by_key.get(upstream_key)
        if upstream is None:
            return
        try:
            async with asyncio.timeout(min(TELLING_SECONDS, upstream.server.deadline)):
                await upstream.answer(holder.by_slug.get(upstream_key), holder.key, upstream_id, body)
        except TimeoutError as error:
            slug = upstream.server.slug
            raise UpstreamTimeout(slug, f"The server {slug} did not take the answer.") from error

    async def end_sessions(self, holder_key: str, sessions: Sequence[UpstreamSession]) -> None:
        """Ends what a closed gateway session had at the upstreams."""
        await asyncio.gather(
            *(self._by_key[session.slug].end(session) for session in sessions if session.slug in self._by_key),
            *(upstream.http_sse.end(holder_key) for upstream in self._upstreams.values()),
            return_exceptions=True,
        )

    async def set_level(self, holder: UpstreamSessions, level: str) -> None:
        """Sets the least log level on the upstream sessions that are open; later ones are opened with it."""

        async def tell(key: str, upstream: Upstream) -> None:
            session = holder.by_slug.get(key)
            if session is not None and "logging" in session.capabilities:
                await upstream.legacy.set_level(session, level)
            await upstream.http_sse.set_level(holder.key, level)

        await self._tell_all("set_level_failed", tell)

    async def roots_changed(self, holder: UpstreamSessions) -> None:
        """Passes on that the client's roots changed, to the upstreams that may ask for roots."""

        async def tell(key: str, upstream: Upstream) -> None:
            session = holder.by_slug.get(key)
            if session is not None and upstream.server.allow_roots:
                await upstream.legacy.notify(session, HousekeepingPermit(Housekeeping.ROOTS_CHANGED))

        await self._tell_all("roots_changed_failed", tell)

    async def _tell_all(self, failed: str, tell: Callable[[str, Upstream], Awaitable[None]]) -> None:
        """Tells all at once something in passing; whoever fails or does not answer in time goes without."""

        async def one(key: str, upstream: Upstream) -> None:
            try:
                async with asyncio.timeout(min(TELLING_SECONDS, upstream.server.deadline)):
                    await tell(key, upstream)
            except (UpstreamError, TimeoutError) as error:
                log.warning(failed, upstream=upstream.server.slug, error=str(error))

        await asyncio.gather(*(one(key, upstream) for key, upstream in self._by_key.items()))

    # --- lists

    async def settled(self) -> None:
        """Returns when the first list may be given: everybody answered, or those who did not will not be waited for."""
        waiting = [d.settled for server, d in self._discoveries.items() if not self._known(server, d)]
        if not waiting:
            return
        deadline = time.monotonic() + FIRST_LIST_SECONDS
        while any(not event.is_set() for event in waiting):
            now = time.monotonic()
            some = any(event.is_set() for event in waiting) or len(waiting) < len(self._discoveries)
            until = min(deadline, self._last_settled + QUIET_SECONDS) if some else deadline
            if now >= until:
                return
            self._settling.clear()
            try:
                async with asyncio.timeout(until - now):
                    await self._settling.wait()
            except TimeoutError:
                continue

    def _known(self, server: Server, discovery: Discovery) -> bool:
        return discovery.settled.is_set() or self._catalogue.published(server) is not None

    def _publish(self, server: Server, definition: Definition | None, told: frozenset[Kind]) -> None:
        self._last_settled = time.monotonic()
        changed = self._catalogue.publish(server, definition, told)
        self._settling.set()
        if definition is not None and changed:
            self._published(server, definition)

    def _finder(self, server: Server) -> Callable[[str], Item | None]:
        def find(upstream_name: str) -> Item | None:
            published = self._catalogue.published(server)
            items = () if published is None else published.own[Kind.TOOL]
            return next((item for item in items if item.upstream_name == upstream_name), None)

        return find

    def _announce(self, server: Server, method: str, params: dict[str, Any], holder_key: str) -> None:
        if method == UPDATED and isinstance(uri := params.get("uri"), str):
            self._watches.told(self._upstreams[server], holder_key, uri)
        else:
            self._list_changed(self._upstreams[server], method)

    def _list_changed(self, upstream: Upstream, method: str) -> None:
        if method in LIST_CHANGES:
            self._discoveries[upstream.server].tell(method)

    # --- watching resources

    async def watch(self, permit: CallPermit, updated: Updated) -> None:
        """Tells of changes to the resource of a permitted subscription or listen, until cancelled."""
        upstream = self._upstreams[permit.call.server]
        holder = await upstream.legacy.holder(permit.call.caller)
        await self._watches.hold(upstream, holder, permit, updated)

    async def subscribe(self, permit: CallPermit, outlet: Outlet) -> Answer:
        """Forwards a legacy client's (un)subscription; a modern upstream keeps none, its listen says it all."""
        upstream = self._upstreams[permit.call.server]
        if await upstream.era_for(permit.call.caller) is Era.MODERN:
            return Answer({})
        return await upstream.forward(permit, outlet)

    def can_watch(self, server: Server) -> bool:
        """Does the upstream say that it tells of changes to resources?"""
        published = self._catalogue.published(server)
        section = None if published is None else published.definition.capabilities.get("resources")
        return isinstance(section, dict) and bool(section.get("subscribe"))
