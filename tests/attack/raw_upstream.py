"""An upstream on bare sockets, for answers that no HTTP server would give."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import orjson

from tests.support.upstreams import TOOL

Act = Callable[["Wire", dict[str, Any]], Awaitable[None]]
"""Takes the connection and the JSON-RPC request that came on it."""
_OWN: dict[str, dict[str, Any]] = {
    "server/discover": {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}},
    "tools/list": {"tools": [TOOL]},
}


@dataclass(eq=False)
class Wire:
    """One connection of the gateway's."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        """Bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, request: dict[str, Any], result: dict[str, Any]) -> None:
        """A good answer."""
        await self.send(http(orjson.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result})))

    async def gone(self) -> None:
        """Returns when the gateway has closed the connection."""
        with suppress(ConnectionError):
            while await self.reader.read(65_536):
                pass


def http(body: bytes, kind: str = "application/json", status: str = "200 OK", more: str = "") -> bytes:
    """A whole HTTP answer."""
    return f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\n{more}content-length: {len(body)}\r\n\r\n".encode() + body


@dataclass
class RawUpstream:
    """Speaks 2026-07-28; `call` answers `tools/call`. `calls` and `wires` are what came, in order."""

    call: Act
    calls: list[dict[str, Any]] = field(default_factory=list)
    wires: list[Wire] = field(default_factory=list)
    url: str = ""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = Wire(reader, writer)
        self.wires.append(wire)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
                request = orjson.loads(await reader.readexactly(length) or b"{}")
                method = request.get("method")
                if method == "tools/call":
                    self.calls.append(request)
                    await self.call(wire, request)
                elif method in _OWN:
                    await wire.answer(request, {**_OWN[method], "ttlMs": 60_000, "cacheScope": "public"})
                else:
                    await wire.send(http(b"", status="405 Method Not Allowed"))
        writer.close()


@asynccontextmanager
async def raw(call: Act) -> AsyncIterator[RawUpstream]:
    """Serves it; its `url` is set meanwhile."""
    upstream = RawUpstream(call)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(upstream._serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    upstream.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/mcp"
    try:
        yield upstream
    finally:
        listener.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for wire in upstream.wires:
            wire.writer.transport.abort()
