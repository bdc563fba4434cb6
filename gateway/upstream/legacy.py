"""Requests on legacy upstream sessions over Streamable HTTP: handshake, calls, resumption, standing streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mcp_types.version import LATEST_HANDSHAKE_VERSION

from catalogue.model import Server
from gateway import jsonrpc
from gateway.calls import Answer, Caller, Message, MessageKind, Outlet, new_id
from gateway.errors import UpstreamProtocolError, UpstreamUnavailable
from gateway.policy.pipeline import CallPermit
from gateway.sessions.model import UpstreamSession, UpstreamSessions, principal_key
from gateway.sessions.registry import SessionRegistry
from gateway.upstream import wire
from gateway.upstream.exchange import Aside, Exchange, NotSpoken, SessionLost
from gateway.upstream.modern import SILENT, broken_off, repeatable
from gateway.upstream.permits import Housekeeping, HousekeepingPermit
from gateway.upstream.transport import EVENT_STREAM, Transport, UnknownOutcome

RESUMPTIONS: Final = 20
"""Reconnections in a row without a new event before a stream is given up."""

_NOT_ALLOWED = {"code": -32601, "message": "Method not found"}
_ASKABLE = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}


class Legacy:
    """The session side of one upstream. Upstream sessions are kept by the registry, so any replica may use them."""

    def __init__(self, server: Server, transport: Transport, registry: SessionRegistry) -> None:
        self._server = server
        self._transport = transport
        self._registry = registry
        self._key = session_key(server)
        self._opening: dict[str, asyncio.Lock] = {}

    # --- calls

    async def forward(self, permit: CallPermit, outlet: Outlet, aside: Aside) -> Answer:
        """Sends a permitted call on the caller's upstream session; a session the upstream forgot is opened anew.

        Raises:
            UnknownOutcome: the connection died and nothing says whether it ran.
        """
        call = permit.call
        holder = await self.holder(call.caller)
        used = await self.session(call.caller, holder)
        try:
            return await self._once(permit, used, outlet, aside)
        except SessionLost:  # 404: not executed, so sending it once more is safe (2025-11-25 transports)
            renewed = await self.session(call.caller, holder, lost=used)
            return await self._once(permit, renewed, outlet, aside)
        except UnknownOutcome:
            if not repeatable(call):
                raise
            return await self._once(permit, await self.session(call.caller, holder), outlet, aside)

    async def _once(self, permit: CallPermit, session: UpstreamSession, outlet: Outlet, aside: Aside) -> Answer:
        call = permit.call
        request_id = new_id()
        params = dict(call.params)
        if meta := wire.call_meta(call, request_id, modern=False):
            params["_meta"] = meta

        async def asked(method: str, asked_params: dict[str, Any], upstream_id: str | int) -> None:
            await self._asked(
                permit,
                session,
                outlet,
                Message(MessageKind.REQUEST, method, Answer(asked_params), upstream_id, self._key),
            )

        exchange = Exchange(
            self._server,
            request_id,
            outlet,
            aside=aside,
            asked=asked,
            progress_token=call.progress_token,
            log_level=call.caller.log_level or (None if call.caller.modern else "debug"),
        )
        body = wire.legacy_body(call.method.value, request_id, params)
        try:
            return await self._exchange(session, exchange, body, outlet)
        except asyncio.CancelledError:
            await self._cancel(session, request_id)
            raise

    async def _exchange(self, session: UpstreamSession, exchange: Exchange, body: bytes, outlet: Outlet) -> Answer:
        headers = wire.legacy_headers(session.protocol_version, session.session_id)
        response = await self._transport.request("POST", self._transport.target, headers, body)
        answer = await exchange.read(self._transport, response, session=session.session_id is not None)
        fruitless = 0
        while answer is None:  # the stream ended first: 2025-11-25 servers may, and are polled with the last event id
            if exchange.last_event_id is None or fruitless >= RESUMPTIONS:
                raise broken_off(self._server)
            outlet.opened()
            seen = exchange.last_event_id
            await asyncio.sleep(min(exchange.retry if exchange.retry is not None else 1000, 30_000) / 1000)
            answer = await self._resume(session, exchange)
            fruitless = fruitless + 1 if exchange.last_event_id == seen else 0
        return answer

    async def _resume(self, session: UpstreamSession, exchange: Exchange) -> Answer | None:
        headers = wire.legacy_headers(session.protocol_version, session.session_id)
        headers["accept"] = EVENT_STREAM
        headers["last-event-id"] = exchange.last_event_id or ""
        try:
            response = await self._transport.request("GET", self._transport.target, headers)
        except UpstreamUnavailable:
            return None
        try:
            return await exchange.read(self._transport, response, session=session.session_id is not None)
        except NotSpoken as error:
            raise broken_off(self._server) from error

    async def _cancel(self, session: UpstreamSession, request_id: str) -> None:
        """Tells the upstream; whether it hears is not waited for longer than a second."""
        params = {"requestId": request_id, "reason": "The client cancelled the request."}
        try:
            async with asyncio.timeout(1.0):
                await self.post(session, wire.legacy_body("notifications/cancelled", None, params))
        except (TimeoutError, UpstreamUnavailable, UpstreamProtocolError):
            return

    # --- requests of the server

    async def _asked(self, permit: CallPermit, session: UpstreamSession, outlet: Outlet, message: Message) -> None:
        """Passes an interactive request on when the client declared it and policy allows it; else refuses it."""
        if message.method == "ping":
            await self.reply(session, message.upstream_id, {"result": {}})
            return
        needed = _ASKABLE.get(message.method)
        caller = permit.call.caller
        if needed is None or caller.modern or needed not in wire.bridgeable(caller, self._server):
            await self.reply(session, message.upstream_id, {"error": _NOT_ALLOWED})
            return
        await outlet.send(message)

    async def reply(self, session: UpstreamSession, upstream_id: str | int | None, body: Mapping[str, Any]) -> None:
        """Posts the answer to a request of the server; `body` holds `result` or `error`."""
        await self.post(session, jsonrpc.dumps({"jsonrpc": "2.0", "id": upstream_id, **body}))

    async def post(self, session: UpstreamSession, body: bytes) -> None:
        """Posts a notification or an answer, for which the upstream owes nothing but an acknowledgement.

        Raises:
            SessionLost: the upstream no longer knows the session.
            UpstreamUnavailable: it did not accept the message.
        """
        headers = wire.legacy_headers(session.protocol_version, session.session_id)
        response = await self._transport.request("POST", self._transport.target, headers, body)
        status = response.status
        try:
            if response.content_length:
                await self._transport.read(response)
        finally:
            response.settle()
        if status == 404 and session.session_id is not None:
            raise SessionLost(self._server.slug, f"The server {self._server.slug} no longer knows its session.")
        if status >= 300:
            raise NotSpoken(self._server.slug, status)

    # --- sessions

    async def holder(self, caller: Caller) -> UpstreamSessions:
        """Whose upstream sessions are used: the gateway session's, or the principal's for session-less clients."""
        if isinstance(caller.holder, UpstreamSessions):
            return caller.holder
        return await self._registry.for_principal(caller.principal.id, _fingerprint(self._declared(caller)))

    def holder_key(self, caller: Caller) -> str:
        """The key of that holder, without looking it up."""
        if caller.holder is not None:
            return caller.holder.key
        return principal_key(caller.principal.id, _fingerprint(self._declared(caller)))

    def _declared(self, caller: Caller) -> dict[str, Any]:
        # A session-less client cannot be asked in the middle of a call, so nothing interactive is declared for it.
        return {} if caller.modern else wire.bridgeable(caller, self._server)

    async def session(
        self, caller: Caller, holder: UpstreamSessions, *, lost: UpstreamSession | None = None
    ) -> UpstreamSession:
        """The holder's upstream session, opened at its first use; `lost` is one the upstream has forgotten."""
        current = holder.by_slug.get(self._key)
        if current is not None and current is not lost:
            return current
        lock = self._opening.setdefault(holder.key, asyncio.Lock())
        try:
            async with lock:
                current = holder.by_slug.get(self._key)
                if current is not None and current is not lost:
                    return current
                opened = await self.open(self._declared(caller))
                kept = await self._registry.attach(holder, opened, replacing=lost)
                if kept.session_id != opened.session_id:  # another replica was first
                    await self.close(opened)
                elif caller.log_level is not None and "logging" in kept.capabilities:
                    await self.set_level(kept, caller.log_level)
                return kept
        finally:
            if not lock.locked():
                self._opening.pop(holder.key, None)

    async def open(self, capabilities: Mapping[str, Any]) -> UpstreamSession:
        """The handshake: `initialize`, then `notifications/initialized`.

        Raises:
            NotSpoken: no Streamable HTTP here (the statuses that mean HTTP+SSE are 400, 404 and 405).
        """
        session, _ = await self.handshake(capabilities)
        return session

    async def handshake(self, capabilities: Mapping[str, Any]) -> tuple[UpstreamSession, Answer]:
        """As `open`, with the result of `initialize` too."""
        offered = LATEST_HANDSHAKE_VERSION if self._server.protocol == "auto" else self._server.protocol
        request_id = new_id()
        body = wire.legacy_body(
            Housekeeping.INITIALIZE,
            request_id,
            {"protocolVersion": offered, "capabilities": capabilities, "clientInfo": wire.CLIENT_INFO},
        )
        exchange = Exchange(self._server, request_id, SILENT, aside=_ignore)
        response = await self._transport.request("POST", self._transport.target, wire.legacy_headers(None, None), body)
        session_id = response.headers.get(wire.SESSION_HEADER)
        answer = await exchange.read(self._transport, response, session=False)
        if answer is None:
            raise broken_off(self._server)
        version = answer.value.get("protocolVersion")
        declared = answer.value.get("capabilities")
        if not isinstance(version, str) or not isinstance(declared, dict):
            slug = self._server.slug
            raise UpstreamProtocolError(slug, f"The server {slug} answered initialize without version or capabilities.")
        session = UpstreamSession(self._key, self._server.version, session_id, version, declared)
        await self.post(session, wire.legacy_body(Housekeeping.INITIALIZED, None, None))
        return session, answer

    async def housekeep(
        self, session: UpstreamSession, permit: HousekeepingPermit, params: Mapping[str, Any]
    ) -> Answer:
        """Sends a request that carries nothing of any caller."""
        request_id = new_id()
        exchange = Exchange(self._server, request_id, SILENT, aside=_ignore)
        body = wire.legacy_body(permit.method.value, request_id, params)
        return await self._exchange(session, exchange, body, SILENT)

    async def subscribe(self, wanted: Sequence[tuple[CallPermit, str]], session: UpstreamSession) -> None:
        """Subscribes the session to resources, each under the permit of the client's own subscription."""
        for _permit, uri in wanted:
            request_id = new_id()
            exchange = Exchange(self._server, request_id, SILENT, aside=_ignore)
            body = wire.legacy_body("resources/subscribe", request_id, {"uri": uri})
            await self._exchange(session, exchange, body, SILENT)

    async def notify(self, session: UpstreamSession, permit: HousekeepingPermit) -> None:
        """Posts a notification that carries nothing of any caller."""
        await self.post(session, wire.legacy_body(permit.method.value, None, None))

    async def set_level(self, session: UpstreamSession, level: str) -> None:
        """Sets the least level of log messages on the session."""
        await self.housekeep(session, HousekeepingPermit(Housekeeping.SET_LEVEL), {"level": level})

    async def listen(self, session: UpstreamSession, aside: Aside) -> bool:
        """Holds the session's GET stream until it ends; False when the upstream offers none.

        Requests on this stream belong to no call and are refused (SEP-2260), except `ping`.
        """

        async def asked(method: str, params: dict[str, Any], upstream_id: str | int) -> None:
            del params
            body: dict[str, Any] = {"result": {}} if method == "ping" else {"error": _NOT_ALLOWED}
            await self.reply(session, upstream_id, body)

        headers = wire.legacy_headers(session.protocol_version, session.session_id)
        headers["accept"] = EVENT_STREAM
        exchange = Exchange(self._server, "", SILENT, aside=aside, asked=asked)
        response = await self._transport.request("GET", self._transport.target, headers)
        if response.status == 200 and response.content_type == EVENT_STREAM:
            await exchange.read(self._transport, response, session=False)
            return True
        response.settle()
        if response.status == 404 and session.session_id is not None:
            raise SessionLost(self._server.slug, f"The server {self._server.slug} no longer knows its session.")
        return False

    async def close(self, session: UpstreamSession) -> None:
        """Ends an upstream session; an upstream that does not answer is left to forget it by itself."""
        if session.session_id is None:
            return
        headers = wire.legacy_headers(session.protocol_version, session.session_id)
        try:
            async with asyncio.timeout(2.0):
                response = await self._transport.request("DELETE", self._transport.target, headers)
                response.settle()
        except (TimeoutError, UpstreamUnavailable):
            return


def session_key(server: Server) -> str:
    """Under which a holder keeps its session at this server version."""
    return f"{server.slug}@{server.version}"


def _fingerprint(capabilities: Mapping[str, Any]) -> str:
    return json.dumps(capabilities, sort_keys=True) if capabilities else ""


def _ignore(method: str, params: dict[str, Any]) -> None:
    del method, params
