"""Changes of resources: one stream per (upstream, holder) on this replica, shared by all who watch through it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from gateway.calls import Call, Method
from gateway.errors import UpstreamError
from gateway.policy.pipeline import CallPermit
from gateway.sessions.model import UpstreamSessions
from gateway.upstream.exchange import SessionLost
from gateway.upstream.permits import Housekeeping, HousekeepingPermit
from gateway.upstream.upstream import Era, Upstream

log = structlog.get_logger()

UPDATED = "notifications/resources/updated"

Updated = Callable[[Call, str], None]
"""Takes the call that watches and the upstream's URI that changed."""
Aside = Callable[[str, dict[str, Any]], None]


@dataclass(slots=True, eq=False)
class _Watcher:
    permit: CallPermit
    updated: Updated

    @property
    def uri(self) -> str:
        return str(self.permit.call.params["uri"])


@dataclass(slots=True, eq=False)
class _Shared:
    """One upstream stream and those who watch through it; `renewed` asks for a stream with the URIs of now."""

    upstream: Upstream
    holder: UpstreamSessions
    watchers: set[_Watcher] = field(default_factory=set)
    renewed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    @property
    def uris(self) -> list[str]:
        return sorted({watcher.uri for watcher in self.watchers})


class Watches:
    """Opens a stream at an upstream with the first watcher and closes it with the last."""

    def __init__(self, list_changed: Callable[[Upstream, str], None]) -> None:
        self._list_changed = list_changed
        self._shared: dict[tuple[Upstream, str], _Shared] = {}

    async def hold(self, upstream: Upstream, holder: UpstreamSessions, permit: CallPermit, updated: Updated) -> None:
        """Watches the resource of a permitted call until cancelled; a broken stream is opened anew."""
        key = (upstream, holder.key)
        shared = self._shared.setdefault(key, _Shared(upstream, holder))
        watcher = _Watcher(permit, updated)
        shared.watchers.add(watcher)
        shared.renewed.set()
        if shared.task is None:
            shared.task = asyncio.create_task(self._run(shared), name=f"watch {upstream.server.slug}")
        try:
            await asyncio.Event().wait()
        finally:
            shared.watchers.discard(watcher)
            shared.renewed.set()
            if not shared.watchers and self._shared.get(key) is shared:
                del self._shared[key]
                shared.task.cancel()

    def told(self, upstream: Upstream, holder_key: str, uri: str) -> None:
        """A change that was told on another stream of the holder, such as that of a call."""
        if (shared := self._shared.get((upstream, holder_key))) is not None:
            _tell(shared, uri)

    async def _run(self, shared: _Shared) -> None:
        def aside(method: str, params: dict[str, Any]) -> None:
            if method == UPDATED and isinstance(uri := params.get("uri"), str):
                _tell(shared, uri)
            else:
                self._list_changed(shared.upstream, method)

        failures = 0
        while True:
            shared.renewed.clear()
            listening = asyncio.create_task(self._listen(shared, aside))
            renewing = asyncio.create_task(shared.renewed.wait())
            try:
                await asyncio.wait((listening, renewing), return_when=asyncio.FIRST_COMPLETED)
                if shared.renewed.is_set():
                    failures = 0
                    continue
                listening.result()
                failures = 0
            except (UpstreamError, TimeoutError) as error:
                failures += 1
                log.info("watch_broken", upstream=shared.upstream.server.slug, error=str(error))
            finally:
                for task in (listening, renewing):
                    task.cancel()
                await asyncio.gather(listening, renewing, return_exceptions=True)
            await asyncio.sleep(min(30.0, 0.2 * 2 ** min(failures, 8)) * random.uniform(0.5, 1.0))  # noqa: S311

    async def _listen(self, shared: _Shared, aside: Aside) -> None:
        upstream = shared.upstream
        watchers = tuple(shared.watchers)
        if not watchers:
            return
        era = await upstream.era_for(watchers[0].permit.call.caller)
        if era is Era.MODERN:
            permit = HousekeepingPermit(Housekeeping.LISTEN)
            await upstream.modern.listen(permit, {"resourceSubscriptions": shared.uris}, aside)
        elif era is Era.LEGACY:
            await self._listen_legacy(shared, watchers, aside)
        else:  # told on the one stream that the holder has, to whoever watches by then
            permits = [watcher.permit for watcher in watchers]
            told = upstream.aside(permits[0].call.caller)
            await upstream.http_sse.watch(permits, told, shared.holder.key)

    async def _listen_legacy(self, shared: _Shared, watchers: tuple[_Watcher, ...], aside: Aside) -> None:
        legacy = shared.upstream.legacy
        caller = watchers[0].permit.call.caller
        session = await legacy.session(caller, shared.holder)
        # A legacy client's own resources/subscribe has reached the upstream already; a listen has not.
        mine = [watcher for watcher in watchers if watcher.permit.call.method is Method.LISTEN]
        try:
            await legacy.subscribe([(watcher.permit, watcher.uri) for watcher in mine], session)
            offered = await legacy.listen(session, aside)
        except SessionLost:
            session = await legacy.session(caller, shared.holder, lost=session)
            await legacy.subscribe([(watcher.permit, watcher.uri) for watcher in watchers], session)
            offered = await legacy.listen(session, aside)
        if not offered:
            await asyncio.Event().wait()


def _tell(shared: _Shared, uri: str) -> None:
    """Tells those who watch the URI, or something above it (sub-resources)."""
    for watcher in tuple(shared.watchers):
        if uri == watcher.uri or uri.startswith(watcher.uri.rstrip("/") + "/"):
            watcher.updated(watcher.permit.call, uri)
