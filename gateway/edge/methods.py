"""The methods of legacy sessions, whatever transport brought them: Streamable HTTP or HTTP+SSE."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import structlog
from mcp_types import methods
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_HANDSHAKE_VERSION
from pydantic import ValidationError

from catalogue.model import Kind
from gateway import jsonrpc
from gateway.bridge.server_requests import Address, ServerRequests
from gateway.calls import Caller, Message, Outlet, Principal
from gateway.dispatch import Dispatch
from gateway.edge.decoding import first_fault
from gateway.edge.http import ClientGone
from gateway.edge.inflight import InFlight
from gateway.edge.replies import Reply, for_error, result_body
from gateway.errors import GatewayError, InvalidParams, UnknownMethod, UpstreamError
from gateway.sessions.model import GatewaySession
from gateway.sessions.registry import SessionRegistry
from gateway.upstream.pool import Pool

log = structlog.get_logger()

_LISTS: Final = {kind.method: kind for kind in Kind}
_LEVELS: Final = frozenset({"debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"})
_EMPTY: Final = b"{}"

CLIENT_BYTES: Final = 16 * 1024
"""Of what a client says of itself, which is kept for as long as its session."""
SUBSCRIPTIONS: Final = 1000
"""Resources one session may be subscribed to."""

Answerer = Callable[[Caller, Mapping[str, Any], Outlet], Awaitable[bytes]]
Headers = list[tuple[bytes, bytes]]


def caller_of(session: GatewaySession, principal: Principal) -> Caller:
    """The caller that a request on this session is."""
    return Caller(
        principal,
        "" if session.endpoint == "sse" else session.endpoint,
        session.protocol_version,
        session.client_capabilities,
        session.upstreams,
        session.log_level,
    )


class LegacyMethods:
    """Answers requests, takes notifications and answers of legacy clients."""

    def __init__(
        self,
        dispatch: Dispatch,
        registry: SessionRegistry,
        upstreams: Pool,
        server_requests: ServerRequests,
        inflight: InFlight,
    ) -> None:
        self._dispatch = dispatch
        self._registry = registry
        self._upstreams = upstreams
        self._server_requests = server_requests
        self._inflight = inflight
        self._answerers: Mapping[str, Answerer] = {
            "tools/call": dispatch.call_tool,
            "prompts/get": dispatch.get_prompt,
            "resources/read": dispatch.read_resource,
            "completion/complete": dispatch.complete,
        }

    async def initialize(
        self, principal: Principal, endpoint: str, message: Mapping[str, Any]
    ) -> tuple[GatewaySession, bytes]:
        """Opens a session; returns it with the JSON-RPC response.

        Raises:
            InvalidParams: what `initialize` requires is missing.
        """
        params = message.get("params") or {}
        try:
            methods.validate_client_request("initialize", LATEST_HANDSHAKE_VERSION, params)
        except ValidationError as error:
            raise InvalidParams(first_fault(error)) from None
        for name in ("clientInfo", "capabilities"):
            if len(jsonrpc.dumps(params[name])) > CLIENT_BYTES:
                raise InvalidParams(f"{name}: must be at most {CLIENT_BYTES} bytes")
        offered = params["protocolVersion"]
        session = await self._registry.open(
            principal=principal.id,
            endpoint=endpoint,
            protocol_version=offered if offered in HANDSHAKE_PROTOCOL_VERSIONS else LATEST_HANDSHAKE_VERSION,
            client_info=params["clientInfo"],
            client_capabilities=params["capabilities"],
        )
        introduction = await self._dispatch.introduction(caller_of(session, principal))
        result: dict[str, Any] = {
            "protocolVersion": session.protocol_version,
            "capabilities": introduction.capabilities,
            "serverInfo": introduction.server_info,
        }
        if introduction.instructions is not None:
            result["instructions"] = introduction.instructions
        return session, result_body(message["id"], jsonrpc.dumps(result))

    async def answer(
        self, session: GatewaySession, principal: Principal, message: Mapping[str, Any], outlet: Outlet
    ) -> tuple[int, bytes, Headers] | None:
        """Status, JSON-RPC response and headers; None when the client cancelled the request."""
        request_id, method = message["id"], message["method"]
        params: Mapping[str, Any] = message.get("params") or {}
        caller = caller_of(session, principal)
        flight = self._inflight.begin(session.upstreams.key, request_id)
        try:
            result = await self._result(session, caller, method, params, outlet)
        except GatewayError as error:
            reply = for_error(error, method=method, revision=caller.revision, modern=False)
            return reply.status, reply.body(request_id), list(reply.headers)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not flight.cancelled or task is None:
                raise
            task.uncancel()
            return None
        except Exception:
            log.exception("request_failed", method=method)
            return 200, Reply(200, -32603, "Internal error").body(request_id), []
        finally:
            self._inflight.end(flight)
        return 200, result_body(request_id, *result), []

    async def _result(
        self, session: GatewaySession, caller: Caller, method: str, params: Mapping[str, Any], outlet: Outlet
    ) -> tuple[bytes, ...]:
        answerer = self._answerers.get(method)
        if answerer is not None:
            return (await answerer(caller, params, outlet),)
        if (kind := _LISTS.get(method)) is not None:
            page = await self._dispatch.list_items(caller, kind, params)
            tail = b"]}"
            if page.next_cursor is not None:
                tail = b'],"nextCursor":' + jsonrpc.dumps(page.next_cursor) + b"}"
            return (b'{"', kind.value.encode(), b'":[', page.items, tail)
        if method == "ping":
            return (_EMPTY,)
        if method == "logging/setLevel":
            return (await self._set_level(session, params),)
        if method in ("resources/subscribe", "resources/unsubscribe"):
            return (await self._subscribe(session, caller, params, outlet, on=method == "resources/subscribe"),)
        raise UnknownMethod(method)

    async def _set_level(self, session: GatewaySession, params: Mapping[str, Any]) -> bytes:
        level = params.get("level")
        if level not in _LEVELS:
            raise InvalidParams(f"level: must be one of {', '.join(sorted(_LEVELS))}")
        await self._registry.set_log_level(session, str(level))
        await self._upstreams.set_level(session.upstreams, str(level))
        return _EMPTY

    async def _subscribe(
        self, session: GatewaySession, caller: Caller, params: Mapping[str, Any], outlet: Outlet, *, on: bool
    ) -> bytes:
        if on and len(session.subscriptions) >= SUBSCRIPTIONS:
            raise InvalidParams(f"uri: a session may subscribe to at most {SUBSCRIPTIONS} resources")
        uri = await self._dispatch.subscribe(caller, params, outlet, on=on)
        await (self._registry.subscribe(session, uri) if on else self._registry.unsubscribe(session, uri))
        return _EMPTY

    async def notification(self, session: GatewaySession, message: Mapping[str, Any]) -> None:
        """Takes a notification: cancellation ends a call on whichever replica runs it; the rest is per hop."""
        params = message.get("params") or {}
        if message["method"] == "notifications/cancelled":
            self._inflight.cancel(session.upstreams.key, params.get("requestId"))
        elif message["method"] == "notifications/roots/list_changed":
            await self._upstreams.roots_changed(session.upstreams)

    async def response(self, session: GatewaySession, message: Mapping[str, Any]) -> None:
        """Takes the client's answer to a server request and posts it upstream; an unknown id is dropped."""
        address = self._server_requests.open(session.id, message.get("id"))
        if address is None:
            log.info("answer_dropped", reason="unknown_id")
            return
        body = {key: message[key] for key in ("result", "error") if key in message}
        try:
            await self._upstreams.answer(address.upstream_key, session.upstreams, address.upstream_id, body)
        except UpstreamError as error:
            log.warning("answer_failed", upstream=error.slug, error=str(error))

    def naming(self, session: GatewaySession) -> Callable[[Message], str]:
        """Seals the ids of server requests for this session."""

        def name(message: Message) -> str:
            if message.upstream_id is None:
                raise ClientGone
            return self._server_requests.seal(session.id, Address(message.upstream_key, message.upstream_id))

        return name

    async def close(self, session: GatewaySession) -> None:
        """Ends the session here, on every replica and at the upstreams."""
        left = await self._registry.close(session)
        await self._upstreams.end_sessions(session.upstreams.key, left)
