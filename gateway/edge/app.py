"""The ASGI application that agents touch: routes, and the order of the checks before anything is read."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from gateway.calls import Principal
from gateway.dispatch import Dispatch
from gateway.edge import decoding
from gateway.edge.authentication import Authentication
from gateway.edge.decoding import Refused
from gateway.edge.guard import Guard, repeated_header
from gateway.edge.http import ClientGone, Receive, Request, Scope, Send
from gateway.edge.http_sse import HttpSse
from gateway.edge.modern import Modern, is_modern
from gateway.edge.replies import Reply, for_error, invalid_message
from gateway.edge.streamable import Streamable
from gateway.errors import GatewayError
from gateway.jsonrpc import InvalidMessage

log = structlog.get_logger()

_SERVER = re.compile(r"/servers/([a-z][a-z0-9]{0,11}(?:@[A-Za-z0-9._-]{1,64})?)/mcp")
_VERSION: Final = "mcp-protocol-version"
_NOT_FOUND: Final = Reply(404, -32600, "Not found")
_METHODS: Final = Reply(405, -32600, "Method not allowed", headers=((b"allow", b"GET, POST, DELETE"),))
_POST_ONLY: Final = Reply(405, -32600, "Method not allowed", headers=((b"allow", b"POST"),))


class Edge:
    """Host and Origin, then authentication, then the era's own handler."""

    def __init__(
        self,
        *,
        guard: Guard,
        authentication: Authentication,
        dispatch: Dispatch,
        modern: Modern,
        streamable: Streamable,
        http_sse: HttpSse,
        ready: Callable[[], Awaitable[tuple[int, bytes]]],
        max_body: int,
    ) -> None:
        self._guard = guard
        self._authentication = authentication
        self._dispatch = dispatch
        self._modern = modern
        self._streamable = streamable
        self._http_sse = http_sse
        self._ready = ready
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one HTTP request; nothing raised here reaches the client as a trace."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive, send)
        try:
            await self._route(request)
        except ClientGone:
            return
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("request_failed", path=request.path)
            await request.respond(500, Reply(500, -32603, "Internal error").body(None))

    async def _route(self, request: Request) -> None:
        path = request.path
        if path == "/livez":
            await request.respond(200, b'{"status":"ok"}')
        elif path == "/readyz":
            status, body = await self._ready()
            await request.respond(status, body)
        elif request.has_repeated_headers and (name := repeated_header(request.raw_headers)) is not None:
            await _reply(request, Reply(400, -32600, f"{name} header appears more than once"))
        elif not self._guard.host_allowed(request.headers.get("host")):
            await _reply(request, Reply(421, -32600, "Host is not served here"))
        elif not self._guard.origin_allowed(request.headers.get("origin")):
            log.info("origin_refused")
            await _reply(request, Reply(403, -32600, "Origin is not allowed"))
        elif path == "/mcp":
            await self._guarded(request, "")
        elif path == "/sse":
            await self._guarded(request, "sse")
        elif (match := _SERVER.fullmatch(path)) is not None:
            await self._guarded(request, match[1])
        else:
            await _reply(request, _NOT_FOUND)

    async def _guarded(self, request: Request, endpoint: str) -> None:
        try:
            principal = await self._authentication.authenticate(request)
            await self._serve(request, principal, endpoint)
        except Refused as refused:
            await _reply(request, refused.reply, refused.request_id)
        except InvalidMessage as error:
            await _reply(request, invalid_message(error))
        except GatewayError as error:
            await _reply(request, for_error(error, method="", revision="", modern=True))

    async def _serve(self, request: Request, principal: Principal, endpoint: str) -> None:
        method = request.method
        if endpoint == "sse":
            await self._serve_sse(request, principal)
            return
        if endpoint and not self._dispatch.exists(endpoint):  # decided after authentication, alike for all slugs
            raise Refused(_NOT_FOUND)
        if method == "POST":
            message = await decoding.read(request, self._max_body, batch=True)
            if isinstance(message, list):
                await self._batch(request, principal, endpoint, message)
            elif is_modern(request.headers, message):
                await self._modern.post(request, principal, endpoint, message)
            else:
                await self._streamable.post(request, principal, endpoint, message)
        elif method not in ("GET", "DELETE"):
            raise Refused(_METHODS)
        elif request.headers.get(_VERSION) in MODERN_PROTOCOL_VERSIONS:
            raise Refused(_POST_ONLY)
        elif method == "GET":
            await self._streamable.get(request, principal, endpoint)
        else:
            await self._streamable.delete(request, principal, endpoint)

    async def _batch(
        self, request: Request, principal: Principal, endpoint: str, messages: list[dict[str, object]]
    ) -> None:
        if request.headers.get(_VERSION) in MODERN_PROTOCOL_VERSIONS or "mcp-session-id" not in request.headers:
            raise Refused(Reply(400, -32600, "A batch is not one JSON-RPC message"))
        await self._streamable.batch(request, principal, endpoint, messages)

    async def _serve_sse(self, request: Request, principal: Principal) -> None:
        if request.method == "GET":
            await self._http_sse.get(request, principal)
        elif request.method == "POST":
            await self._http_sse.post(request, principal)
        else:
            raise Refused(_METHODS)


async def _reply(request: Request, reply: Reply, request_id: object = None) -> None:
    await request.respond(reply.status, reply.body(request_id), list(reply.headers))
