"""A proxy with the SDK's runtime on both sides, its clients opened once and kept: the SDK at its best.

JSON answers instead of streams, and input schemas from a table, since without it the SDK lists all tools in every
2026-07-28 call.
Usage: python -m benchmarks.programs.sdk_proxy PORT UPSTREAMS.json   where the file holds {slug: url}
"""

import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
import uvicorn
from mcp.client import Client
from mcp.server.lowlevel import Server

# What the start waits for handshakes and lists; the tools of a later upstream appear when it answers.
DISCOVERY_DEADLINE = 5.0


class Proxy:
    """Upstream clients by slug, and the tools they offer under prefixed names."""

    def __init__(self, upstreams: dict[str, str]) -> None:
        self._urls = upstreams
        self._routes: dict[str, tuple[Client, str]] = {}
        self._tools: dict[str, types.Tool] = {}
        self.server: Server[None] = Server(
            "sdk-proxy",
            version="1",
            lifespan=self._lifespan,
            get_tool_input_schema=self._input_schema,
            on_list_tools=self._list,
            on_call_tool=self._call,
        )

    @asynccontextmanager
    async def _lifespan(self, _: Server[None]) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            ready = [anyio.Event() for _ in self._urls]
            for (slug, url), event in zip(self._urls.items(), ready, strict=True):
                group.start_soon(self._keep_open, slug, url, event)
            with anyio.move_on_after(DISCOVERY_DEADLINE):
                for event in ready:
                    await event.wait()
            yield
            group.cancel_scope.cancel()

    async def _keep_open(self, slug: str, url: str, ready: anyio.Event) -> None:
        """One upstream's client, in a task of its own because it owns a task group."""
        async with Client(url) as client:
            for tool in (await client.list_tools()).tools:
                exposed = f"{slug}__{tool.name}"
                self._routes[exposed] = (client, tool.name)
                self._tools[exposed] = tool.model_copy(update={"name": exposed})
            ready.set()
            await anyio.sleep_forever()

    def _input_schema(self, name: str) -> Mapping[str, Any] | None:
        tool = self._tools.get(name)
        return tool.input_schema if tool is not None else None

    async def _list(self, _: Any, __: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=list(self._tools.values()), ttl_ms=60_000, cache_scope="public")

    async def _call(self, _: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        client, name = self._routes[params.name]
        return await client.call_tool(name, params.arguments)


if __name__ == "__main__":
    proxy = Proxy(json.loads(Path(sys.argv[2]).read_bytes()))
    uvicorn.run(
        proxy.server.streamable_http_app(json_response=True, max_sessions=None),
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        ws="none",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        timeout_keep_alive=120,
    )
