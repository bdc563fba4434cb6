"""One upstream server version: which era it speaks, and the one door a permitted call goes through."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import structlog

from catalogue.model import Item, Server
from gateway.calls import Answer, Call, Caller, Outlet
from gateway.errors import UpstreamError, UpstreamProtocolError, UpstreamRefused, UpstreamTimeout
from gateway.policy.pipeline import CallPermit
from gateway.sessions.model import UpstreamSession
from gateway.sessions.registry import SessionRegistry
from gateway.upstream import wire
from gateway.upstream.exchange import Aside, NotSpoken
from gateway.upstream.http_sse import HttpSse
from gateway.upstream.legacy import Legacy
from gateway.upstream.modern import Modern, modern_refusal, speaks_modern
from gateway.upstream.permits import Housekeeping, HousekeepingPermit
from gateway.upstream.transport import Bulkhead, Transport

log = structlog.get_logger()

_NO_VERDICT = frozenset({401, 403, 407, 429})
_MODERN_REVISION = "2026-07-28"
_NO_SESSION = frozenset({-32600, -32000})
"""What servers with sessions answer to a request without one; the code was never agreed on."""

Announce = Callable[[Server, str, dict[str, Any], str], None]
"""Takes (server, notification method, params, holder key) of what belongs to no request."""


class Era(StrEnum):
    """Which of the three ways of speaking an upstream understands; a property of the server, cached here."""

    MODERN = "modern"
    LEGACY = "legacy"
    HTTP_SSE = "http+sse"


class Deadline:
    """Cancels the current task after some seconds. What `asyncio.timeout` does at a third of its price per call."""

    __slots__ = ("_handle", "_passed", "_task")

    def __init__(self, seconds: float) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - calls run in tasks
        self._task = task
        self._passed = False
        self._handle = asyncio.get_running_loop().call_later(seconds, self._pass)

    def _pass(self) -> None:
        self._passed = True
        self._task.cancel()

    def passed(self) -> bool:
        """Was it the deadline that cancelled, and nobody else beside it? Takes the cancellation back then."""
        return self._passed and self._task.uncancel() == 0

    def cancel(self) -> None:
        """The work is done in time."""
        self._handle.cancel()


class Upstream:
    """Everything this process has of one upstream."""

    def __init__(self, server: Server, tls: ssl.SSLContext, registry: SessionRegistry, announce: Announce) -> None:
        self.server = server
        self.era: Era | None = None
        self._has_sessions: bool | None = None
        self._transport = Transport(server, tls)
        self.modern = Modern(server, self._transport)
        self.legacy = Legacy(server, self._transport, registry)
        self.http_sse = HttpSse(server, self._transport)
        self._bulkhead = Bulkhead(server)
        self._announce = announce
        self._probing = asyncio.Lock()
        self.relist: Callable[[], Any] | None = None
        self.find_item: Callable[[str], Item | None] | None = None

    async def forward(self, permit: CallPermit, outlet: Outlet) -> Answer:
        """Sends a permitted call within the server's deadline and concurrency.

        Raises:
            UpstreamTimeout: the deadline passed; the upstream was told to cancel.
            UpstreamError: see errors.py.
        """
        aside = self.aside(permit.call.caller)
        deadline = Deadline(self.server.deadline)
        try:
            async with self._bulkhead:  # waiting for a place is part of the time a call may take
                return await self._attempt(permit, outlet, aside)
        except asyncio.CancelledError:
            if not deadline.passed():
                raise
        finally:
            deadline.cancel()
        slug = self.server.slug
        raise UpstreamTimeout(slug, f"The server {slug} did not answer within {self.server.deadline:g} s.")

    def aside(self, caller: Caller) -> Aside:
        """Takes what is told on the caller's streams and belongs to no request."""

        def take(method: str, params: dict[str, Any]) -> None:
            self._announce(self.server, method, params, self.legacy.holder_key(caller))

        return take

    async def _attempt(self, permit: CallPermit, outlet: Outlet, aside: Aside) -> Answer:
        call = permit.call
        era = await self.era_for(call.caller)
        try:
            return await self._forward(era, permit, outlet, aside)
        except NotSpoken as error:
            if error.status in _NO_VERDICT or error.status >= 500:
                raise
            return await self._forward(await self._another_era(era, error), permit, outlet, aside)
        except UpstreamRefused as error:
            if _of_another_era(era, error):
                return await self._forward(await self._another_era(era, error), permit, outlet, aside)
            if error.code != -32020 or era is not Era.MODERN or self.relist is None:
                raise
            # The upstream's schema names other headers than the one we know. It rejected before running anything.
            await self.relist()
            return await self._forward(era, _with_current_item(permit, self.find_item), outlet, aside)

    async def _forward(self, era: Era, permit: CallPermit, outlet: Outlet, aside: Aside) -> Answer:
        match era:
            case Era.MODERN:
                return await self.modern.forward(permit, outlet, aside)
            case Era.LEGACY:
                return await self.legacy.forward(permit, outlet, aside)
            case Era.HTTP_SSE:
                return await self.http_sse.forward(permit, outlet, aside, self.legacy.holder_key(permit.call.caller))

    def doubt(self, error: Exception) -> None:
        """Forgets the era after an answer that it does not explain; whoever asks next probes again."""
        unclear = isinstance(error, NotSpoken) and (error.status in _NO_VERDICT or error.status >= 500)
        if isinstance(error, NotSpoken | UpstreamRefused | UpstreamProtocolError) and not unclear:
            self.era = self._has_sessions = None

    async def _another_era(self, era: Era, error: NotSpoken | UpstreamRefused) -> Era:
        self.era = self._has_sessions = None
        found = await self.probe()
        if found is era:
            raise error
        return found

    async def era_for(self, caller: Caller) -> Era:
        """The era in which this caller's calls go out.

        A server of both eras is spoken to in the client's own where that matters: a legacy client that can be asked in
        the middle of a call is asked by the server itself, on a session, with nothing translated.
        """
        era = self.era or await self.probe()
        if era is not Era.MODERN or caller.modern or not wire.bridgeable(caller, self.server):
            return era
        if self._has_sessions is None:
            self._has_sessions = self.server.protocol == "auto" and await self._tries_session()
        return Era.LEGACY if self._has_sessions else era

    async def _tries_session(self) -> bool:
        try:
            await self.legacy.close(await self.legacy.open({}))
        except (NotSpoken, UpstreamRefused, UpstreamProtocolError):
            return False
        return True

    async def probe(self) -> Era:
        """Finds out the era, once for all who ask at the same time; statuses that are no verdict raise.

        Raises:
            UpstreamError: no verdict: unreachable, unauthorized, overloaded, or nothing that is MCP.
        """
        async with self._probing:
            if self.era is None:
                self.era = await self._find_era()
                log.debug("era_found", upstream=self.server.slug, version=self.server.version, era=self.era.value)
            return self.era

    async def _find_era(self) -> Era:
        if self.server.transport == "sse":
            return Era.HTTP_SSE
        if self.server.protocol != "auto":
            return Era.MODERN if self.server.protocol == _MODERN_REVISION else Era.LEGACY
        if await self._speaks_modern():
            return Era.MODERN
        try:
            session = await self.legacy.open({})
        except NotSpoken as error:
            if self.server.transport == "auto" and error.status in (400, 404, 405):
                return await self._try_http_sse(error)
            raise
        except UpstreamRefused as error:
            if modern_refusal(error):
                return Era.MODERN
            raise
        await self.legacy.close(session)
        return Era.LEGACY

    async def _speaks_modern(self) -> bool:
        try:
            return speaks_modern(await self.modern.housekeep(HousekeepingPermit(Housekeeping.DISCOVER), {}))
        except UpstreamRefused as error:
            return modern_refusal(error)
        except NotSpoken as error:
            if error.status in _NO_VERDICT or error.status >= 500:
                raise
            return False
        except UpstreamProtocolError:
            return False

    async def _try_http_sse(self, refusal: NotSpoken) -> Era:
        try:
            connection = await self.http_sse.open({}, lambda _method, _params: None)
        except UpstreamError:
            raise refusal from None
        await connection.close()
        return Era.HTTP_SSE

    async def answer(
        self, session: UpstreamSession | None, holder_key: str, upstream_id: str | int, body: dict[str, Any]
    ) -> None:
        """Posts a client's answer to a request of this server; `body` holds `result` or `error`."""
        if session is not None:
            await self.legacy.reply(session, upstream_id, body)
        elif (connection := self.http_sse.find(holder_key)) is not None:
            await connection.reply(upstream_id, body)

    async def end(self, session: UpstreamSession) -> None:
        """Ends an upstream session."""
        await self.legacy.close(session)

    async def close(self) -> None:
        """Closes every connection to this upstream."""
        await self.http_sse.close()
        self._transport.close()


def _of_another_era(era: Era, error: UpstreamRefused) -> bool:
    """May the refusal mean that the server was replaced by one of the other era? Such a one runs nothing before it."""
    return error.code in _NO_SESSION if era is Era.MODERN else modern_refusal(error)


def _with_current_item(permit: CallPermit, find: Callable[[str], Item | None] | None) -> CallPermit:
    """The same permitted call with the header map of the definition just fetched; nothing else of it may change."""
    call: Call = permit.call
    if find is None or call.item is None or (current := find(call.item.upstream_name)) is None:
        return permit
    return permit.with_headers_of(current)
