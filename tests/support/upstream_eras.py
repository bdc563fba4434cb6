"""Scripted upstreams of each revision, the first one's HTTP+SSE transport included."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from tests.support.clients import NEWEST, OLDEST, REVISIONS
from tests.support.upstreams import Exchange, ScriptedUpstream, Seen

PNG = "iVBORw0KGgo="
LINK = {"type": "resource_link", "uri": "file:///report", "name": "report", "x-vendor": True}
INLINE = {"uri": "file:///inline", "text": "inline", "x-vendor": [1]}
EMBEDDED = {"type": "resource", "resource": INLINE}
TEXT = {"type": "text", "text": "sunny", "x-vendor": {"deep": [1, None]}}
IMAGE = {"type": "image", "data": PNG, "mimeType": "image/png"}
STRUCTURE = {"weather": "sunny", "x-vendor": 1}
RESULT = {
    "content": [TEXT, IMAGE, LINK, EMBEDDED],
    "structuredContent": STRUCTURE,
    "x-vendor": {"a": [1.5, "b", None]},
    "_meta": {"com.example/of-theirs": {"kept": True}},
}
FAILURE = {"content": [{"type": "text", "text": "no such city"}], "isError": True}
TOOLS = [
    {
        "name": "weather",
        "inputSchema": {"type": "object", "properties": {"city": {"type": "string"}}},
        "outputSchema": {"type": "object", "properties": {"weather": {"type": "string"}}, "required": ["weather"]},
        "x-vendor": {"kept": True},
    },
    {"name": "fail", "inputSchema": {"type": "object"}},
]
PROMPTS = [{"name": "ask", "arguments": [{"name": "city", "required": True}], "x-vendor": 1}]
RESOURCES = [{"uri": "file:///report", "name": "report", "mimeType": "text/plain", "x-vendor": 1}]
TEMPLATES = [{"uriTemplate": "file:///city/{name}", "name": "city", "x-vendor": 1}]


class OverChannel(Exchange):
    """An exchange whose answer goes down the standing GET; the POST has been acknowledged."""

    __slots__ = ()

    async def respond(self, status: int, body: bytes = b"", **headers: str) -> None:
        """The message alone: this transport has no statuses and headers."""
        del status, headers
        if body:
            await self.raw(b"event: message\ndata: " + body + b"\n\n")

    async def stream(self, **headers: str) -> None:
        """It is open."""
        del headers

    async def raw(self, chunk: bytes, *, last: bool = False) -> None:
        """Bytes of the channel, which outlives the exchange."""
        del last
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})


@dataclass
class SseUpstream(ScriptedUpstream):
    """An upstream of 2024-11-05: GET opens a channel, POSTs to its address are answered on it.

    What is seen of a POST has the channel as another header.
    """

    era: str = "sse"
    channels: dict[str, Exchange] = field(default_factory=dict)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        if scope["method"] == "GET":
            await self._open(Exchange(Seen("GET", headers, b""), send, receive))
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        address = scope["query_string"].decode()
        seen = Seen(scope["method"], {**headers, "channel": address}, body)
        plain = Exchange(seen, send, receive)
        channel = self.channels.get(address)
        if channel is None:
            await plain.respond(405)
            return
        self.seen.append(seen)
        await plain.respond(202)
        await self._post(OverChannel(seen, channel._send, channel._receive))

    async def _open(self, exchange: Exchange) -> None:
        key = f"channel={len(self.channels) + 1}"
        self.channels[key] = exchange
        await exchange.stream()
        await exchange.raw(f"event: endpoint\ndata: messages?{key}\n\n".encode())
        await self._hold(exchange)

    async def _post(self, exchange: Exchange) -> None:
        method = exchange.seen.json.get("method", "")
        if method in self.acts:
            await self.acts[method](exchange)
        elif method == "initialize":
            await exchange.result(hello(self, OLDEST))
        else:
            await self._answer(exchange, method)


def hello(upstream: ScriptedUpstream, revision: str) -> dict[str, Any]:
    """A result of `initialize`."""
    info = {"name": "scripted", "version": "1"}
    return {"protocolVersion": revision, "capabilities": upstream._declared(), "serverInfo": info}


def upstream_of(revision: str, **fields: Any) -> ScriptedUpstream:
    """An upstream that speaks one revision only."""
    if revision == OLDEST:
        return SseUpstream(**fields)
    if revision == NEWEST:
        return ScriptedUpstream("modern", **fields)
    upstream = ScriptedUpstream("legacy", **fields)

    async def initialize(exchange: Exchange) -> None:
        session = f"session-{uuid.uuid4().hex}-{len(upstream.seen)}"
        upstream.sessions.add(session)
        await exchange.result(hello(upstream, revision), mcp_session_id=session)

    upstream.acts["initialize"] = initialize
    return upstream


def city(revision: str) -> ScriptedUpstream:
    """An upstream with every kind of content: tools `weather` and `fail`, prompt `ask`, a resource and a template."""
    upstream = upstream_of(
        revision,
        tools=TOOLS,
        prompts=PROMPTS,
        resources=RESOURCES,
        templates=TEMPLATES,
        capabilities={"completions": {}, "logging": {}},
    )

    async def call(exchange: Exchange) -> None:
        await exchange.result(RESULT if exchange.params["name"] == "weather" else FAILURE)

    async def prompt(exchange: Exchange) -> None:
        messages = [{"role": "user", "content": block, "x-vendor": 1} for block in (TEXT, LINK, EMBEDDED)]
        await exchange.result({"description": "of " + exchange.params["arguments"]["city"], "messages": messages})

    async def read(exchange: Exchange) -> None:
        uri = exchange.params["uri"]
        contents = [{"uri": uri, "text": f"contents of {uri}", "x-vendor": 1}, {"uri": uri, "blob": PNG}]
        await exchange.result({"contents": contents, **({"ttlMs": 5, "cacheScope": "private"} if modern else {})})

    async def complete(exchange: Exchange) -> None:
        found = [exchange.params["argument"]["value"] + "burg"]
        await exchange.result({"completion": {"values": found, "total": 1, "hasMore": False}})

    async def subscribe(exchange: Exchange) -> None:
        await exchange.result({})
        upstream.listened.set()

    modern = revision == NEWEST
    upstream.acts |= {
        "tools/call": call,
        "prompts/get": prompt,
        "resources/read": read,
        "completion/complete": complete,
        "resources/subscribe": subscribe,
    }
    return upstream


def slug_of(revision: str) -> str:
    """A slug that tells the revision."""
    return "r" + revision.replace("-", "")


def of_each_revision() -> dict[str, ScriptedUpstream]:
    """One upstream of each revision, by slug."""
    return {slug_of(revision): city(revision) for revision in REVISIONS}
