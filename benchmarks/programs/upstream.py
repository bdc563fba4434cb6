"""A fast MCP server that stands for a hundred: `/u0/mcp` … `/u99/mcp`, plus `/hung/mcp` and `/dead/mcp`.

It speaks 2025-11-25 and 2026-07-28 on every path. `hung` lists its tools and never answers a call; `dead` accepts
connections and never answers anything. It costs about 15 µs a call, so it is never what is being measured.
Usage: python -m benchmarks.programs.upstream PORT
"""

import asyncio
import itertools
import sys
from typing import Any, Final, cast

import orjson
import uvloop

LEGACY: Final = "2025-11-25"
MODERN: Final = "2026-07-28"
WORDS: Final = (
    "the harbour keeps a ledger of every boat that came in with the tide and of every crate that was carried up the "
    "narrow stairs to the rooms where clerks weigh salt, count rope and write what they saw in a slow round hand "
)
TEXT: Final = WORDS * 12
RESULT_SIZE: Final = 1024

_calls = itertools.count(1)
_sessions = itertools.count(1)


def tool(number: int) -> dict[str, Any]:
    """A definition of about 400 bytes, as real servers have them."""
    name = "echo" if number == 0 else f"record_{number}"
    return {
        "name": name,
        "title": name.replace("_", " ").capitalize(),
        "description": f"Answers with the text it was given and part of ledger page {number}, about one kilobyte.",
        "inputSchema": {
            "type": "object",
            "properties": {
                "text": {"type": "string", "description": "What to write into the ledger"},
                "limit": {"type": "integer", "minimum": 1, "maximum": 100, "description": "Lines to return"},
            },
            "required": ["text"],
        },
        "annotations": {"readOnlyHint": True, "openWorldHint": False},
    }


TOOLS: Final = [tool(number) for number in range(10)]
COMPLETE: Final = {"resultType": "complete"}
FRESH: Final = {"ttlMs": 300_000, "cacheScope": "public"}
INFO: Final = {"name": "benchmark-upstream", "version": "1"}


def answer(method: str, params: dict[str, Any], modern: bool) -> dict[str, Any] | None:
    """The result of one request, or None for a method that is not served."""
    era = COMPLETE if modern else {}
    if method == "tools/call":
        count = next(_calls)
        # A different stretch of text each time, so that nothing can be answered from a cache.
        start = count % len(WORDS)
        text = f"{count} {params.get('arguments', {}).get('text', '')} "
        return {
            **era,
            "content": [{"type": "text", "text": text + TEXT[start : start + RESULT_SIZE]}],
            "isError": False,
        }
    if method == "tools/list":
        return {**era, **(FRESH if modern else {}), "tools": TOOLS}
    if method == "server/discover" and modern:
        found = {"supportedVersions": [MODERN, LEGACY], "capabilities": {"tools": {}}, "serverInfo": INFO}
        return {**era, **FRESH, **found}
    if method == "initialize" and not modern:
        return {"protocolVersion": LEGACY, "capabilities": {"tools": {}}, "serverInfo": INFO}
    if method == "ping" and not modern:
        return {}
    for kind in ("resources/templates", "resources", "prompts"):
        if method == f"{kind}/list":
            key = "resourceTemplates" if kind == "resources/templates" else kind
            return {**era, **(FRESH if modern else {}), key: []}
    return None


def reply(status: bytes, body: bytes = b"", extra: bytes = b"") -> bytes:
    """One HTTP reply."""
    kind = b"Content-Type: application/json\r\n" if body else b""
    return b"HTTP/1.1 %s\r\n%s%sContent-Length: %d\r\n\r\n%s" % (status, kind, extra, len(body), body)


class Upstream(asyncio.Protocol):
    """One connection; requests may be pipelined, answers keep their order."""

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        while (end := buffer.find(b"\r\n\r\n")) >= 0:
            head = buffer[:end]
            lowered = head.lower()
            length = 0
            if (start := lowered.find(b"\r\ncontent-length:")) >= 0:
                stop = lowered.find(b"\r\n", start + 2)
                length = int(lowered[start + 17 : stop if stop >= 0 else None])
            if len(buffer) < end + 4 + length:
                break
            body = buffer[end + 4 : end + 4 + length]
            buffer = buffer[end + 4 + length :]
            self._request(head, lowered, body)
        self._buffer = buffer

    def _request(self, head: bytes, lowered: bytes, body: bytes) -> None:
        assert self._transport is not None
        verb, path, _ = head.split(b" ", 2)
        if path == b"/dead/mcp":
            return
        if verb != b"POST":
            self._transport.write(reply(b"200 OK" if verb == b"DELETE" else b"405 Method Not Allowed"))
            return
        call = orjson.loads(body)
        method: str = call["method"]
        if "id" not in call:
            self._transport.write(reply(b"202 Accepted"))
            return
        if path == b"/hung/mcp" and method == "tools/call":
            return
        modern = b"\r\nmcp-protocol-version: " + MODERN.encode() in lowered
        result = answer(method, call.get("params") or {}, modern)
        if result is None:
            error = {"code": -32601, "message": "Method not found"}
            body = orjson.dumps({"jsonrpc": "2.0", "id": call["id"], "error": error})
            self._transport.write(reply(b"404 Not Found" if modern else b"200 OK", body))
            return
        session = b"Mcp-Session-Id: upstream-%d\r\n" % next(_sessions) if method == "initialize" else b""
        self._transport.write(
            reply(b"200 OK", orjson.dumps({"jsonrpc": "2.0", "id": call["id"], "result": result}), session)
        )


async def serve(port: int) -> None:
    """Listens until the process is ended."""
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
