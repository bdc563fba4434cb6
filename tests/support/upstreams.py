"""Upstreams that do exactly what a test says, and remember all they saw."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from tests.support.listening import listening

TOOL = {"name": "echo", "description": "Says it again.", "inputSchema": {"type": "object"}}
NO_STORE = {"resultType": "complete", "ttlMs": 60_000, "cacheScope": "public"}


@dataclass(slots=True)
class Seen:
    """One request as it arrived."""

    method: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The decoded body."""
        decoded: dict[str, Any] = orjson.loads(self.body)
        return decoded


@dataclass(slots=True)
class Exchange:
    """A request under way: what came, and the means to answer it."""

    seen: Seen
    _send: Callable[[dict[str, Any]], Awaitable[None]]
    _receive: Callable[[], Awaitable[dict[str, Any]]]

    @property
    def id(self) -> Any:
        """The JSON-RPC id of the request."""
        return self.seen.json.get("id")

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of the request."""
        params: dict[str, Any] = self.seen.json.get("params") or {}
        return params

    async def respond(self, status: int, body: bytes = b"", **headers: str) -> None:
        """A whole response, JSON unless another `content_type` is given."""
        headers = {"content_type": "application/json", **headers}
        lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": lines})
        await self._send({"type": "http.response.body", "body": body})

    async def result(self, result: dict[str, Any], **headers: str) -> None:
        """The result of the request, as JSON."""
        await self.respond(200, orjson.dumps({"jsonrpc": "2.0", "id": self.id, "result": result}), **headers)

    async def error(self, code: int, message: str = "no", data: Any = None, status: int = 200) -> None:
        """A JSON-RPC error."""
        error: dict[str, Any] = {"code": code, "message": message}
        if data is not None:
            error["data"] = data
        await self.respond(status, orjson.dumps({"jsonrpc": "2.0", "id": self.id, "error": error}))

    async def stream(self, **headers: str) -> None:
        """Opens an event stream."""
        lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        lines.append((b"content-type", b"text/event-stream"))
        await self._send({"type": "http.response.start", "status": 200, "headers": lines})

    async def raw(self, chunk: bytes, *, last: bool = False) -> None:
        """Bytes of the stream."""
        await self._send({"type": "http.response.body", "body": chunk, "more_body": not last})

    async def event(self, message: dict[str, Any], *, id: str | None = None, last: bool = False) -> None:  # noqa: A002
        """One message of the stream."""
        head = b"" if id is None else b"id: " + id.encode() + b"\n"
        await self.raw(head + b"event: message\ndata: " + orjson.dumps(message) + b"\n\n", last=last)

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        """A notification on the stream."""
        await self.event({"jsonrpc": "2.0", "method": method, "params": params})

    async def gone(self) -> None:
        """Returns when the gateway has closed the connection."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


Act = Callable[[Exchange], Awaitable[None]]


@dataclass
class ScriptedUpstream:
    """An upstream of one era whose lists and calls a test sets; `acts` overrides whole methods.

    `seen` has every POST in order; `requests(method)` the bodies of one method.
    """

    era: str = "modern"
    tools: list[dict[str, Any]] = field(default_factory=lambda: [TOOL])
    prompts: list[dict[str, Any]] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    templates: list[dict[str, Any]] = field(default_factory=list)
    capabilities: dict[str, Any] = field(default_factory=dict)
    acts: dict[str, Act] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    sessions: set[str] = field(default_factory=set)
    listening: list[Exchange] = field(default_factory=list)
    listened: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    def requests(self, method: str) -> list[dict[str, Any]]:
        """Bodies of the requests of one JSON-RPC method, in order."""
        return [seen.json for seen in self.seen if seen.body and seen.json.get("method") == method]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        seen = Seen(scope["method"], headers, body)
        exchange = Exchange(seen, send, receive)
        if scope["method"] == "POST":
            self.seen.append(seen)
            await self._post(exchange)
        elif scope["method"] == "GET" and "GET" in self.acts:
            self.seen.append(seen)
            await self.acts["GET"](exchange)
        elif scope["method"] == "GET" and self.era == "legacy":
            await exchange.stream()
            await exchange.raw(b": open\n\n")
            await self._hold(exchange)
        elif scope["method"] == "DELETE" and self.era == "legacy":
            self.seen.append(seen)
            self.sessions.discard(headers.get("mcp-session-id", ""))
            await exchange.respond(200)
        else:
            await exchange.respond(405)

    async def _hold(self, exchange: Exchange) -> None:
        self.listening.append(exchange)
        self.listened.set()
        try:
            await exchange.gone()
        finally:
            self.listening.remove(exchange)

    async def _post(self, exchange: Exchange) -> None:
        body = exchange.seen.json
        method = body.get("method", "")
        if method in self.acts:
            await self.acts[method](exchange)
            return
        if self.era == "legacy":
            session = exchange.seen.headers.get("mcp-session-id")
            if method == "initialize":
                session = f"session-{len(self.sessions) + 1}-{len(self.seen)}"
                self.sessions.add(session)
                hello = {
                    "protocolVersion": "2025-11-25",
                    "capabilities": self._declared(),
                    "serverInfo": {"name": "scripted", "version": "1"},
                }
                await exchange.result(hello, mcp_session_id=session)
                return
            if session is None:
                await exchange.error(-32600, "Missing session ID", status=400)
                return
            if session not in self.sessions:
                await exchange.error(-32600, "Session not found", status=404)
                return
        elif "mcp-method" not in exchange.seen.headers:
            await exchange.error(-32022, data={"supported": ["2026-07-28"], "requested": "?"}, status=400)
            return
        await self._answer(exchange, method)

    def _declared(self) -> dict[str, Any]:
        declared: dict[str, Any] = {"tools": {"listChanged": True}}
        if self.prompts:
            declared["prompts"] = {"listChanged": True}
        if self.resources or self.templates:
            declared["resources"] = {"listChanged": True, "subscribe": True}
        return {**declared, **self.capabilities}

    async def _answer(self, exchange: Exchange, method: str) -> None:
        more = NO_STORE if self.era == "modern" else {}
        lists = {
            "tools/list": ("tools", self.tools),
            "prompts/list": ("prompts", self.prompts),
            "resources/list": ("resources", self.resources),
            "resources/templates/list": ("resourceTemplates", self.templates),
        }
        if method in lists:
            member, items = lists[method]
            await exchange.result({member: items, **more})
        elif method == "server/discover" and self.era == "modern":
            found = {"supportedVersions": ["2026-07-28"], "capabilities": self._declared(), **more}
            await exchange.result(found)
        elif method == "tools/call":
            text = orjson.dumps(exchange.params.get("arguments")).decode()
            await exchange.result({"content": [{"type": "text", "text": text}]})
        elif method == "subscriptions/listen" and self.era == "modern":
            await exchange.stream()
            tag = {"io.modelcontextprotocol/subscriptionId": exchange.id}
            honoured = exchange.params.get("notifications", {})
            await exchange.notify("notifications/subscriptions/acknowledged", {"notifications": honoured, "_meta": tag})
            await self._hold(exchange)
        elif method.startswith("notifications/") or not method:
            await exchange.respond(202)
        elif method in ("resources/subscribe", "resources/unsubscribe", "logging/setLevel", "ping"):
            await exchange.result({})
        else:
            await exchange.error(-32601, "Method not found", status=404 if self.era == "modern" else 200)


@asynccontextmanager
async def scripted(upstream: ScriptedUpstream) -> AsyncIterator[ScriptedUpstream]:
    """Serves it; its `url` is set meanwhile."""
    async with listening(upstream) as origin:
        upstream.url = f"{origin}/mcp"
        yield upstream
