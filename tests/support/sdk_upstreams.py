"""Upstreams made with the official SDK, over the first revision's transport and over Streamable HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.sse import SseServerTransport
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from tests.support.listening import listening

Context = ServerRequestContext[dict[str, Any]]

SUM = types.Tool(
    name="add",
    input_schema={
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
    output_schema={"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]},
)
CLIMB = types.Tool(name="climb", input_schema={"type": "object"})
NOTES = "memo://notes"


async def list_tools(_: Context, __: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    return types.ListToolsResult(tools=[SUM, CLIMB])


async def call_tool(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    if params.name == "climb":
        for step in (1, 2, 3):
            await context.session.report_progress(step, 3)
        return types.CallToolResult(content=[types.TextContent(text="up")])
    arguments = params.arguments or {}
    total = arguments["a"] + arguments["b"]
    return types.CallToolResult(content=[types.TextContent(text=str(total))], structured_content={"sum": total})


async def list_resources(_: Context, __: types.PaginatedRequestParams | None) -> types.ListResourcesResult:
    return types.ListResourcesResult(resources=[types.Resource(uri=NOTES, name="notes")])


async def read_resource(_: Context, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
    return types.ReadResourceResult(contents=[types.TextResourceContents(uri=params.uri, text="noted")])


def server() -> Server[dict[str, Any]]:
    """Two tools and a resource."""
    return Server(
        "sdk",
        version="1",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_read_resource=read_resource,
    )


def streamable() -> Starlette:
    """Both eras over Streamable HTTP, at `/mcp`."""
    sessions = StreamableHTTPSessionManager(server())

    def lifespan(_: Starlette) -> AbstractAsyncContextManager[None]:
        return sessions.run()

    return Starlette(routes=[Mount("/mcp", sessions.handle_request)], lifespan=lifespan)


def sse() -> Starlette:
    """HTTP+SSE, at `/sse`."""
    transport, served = SseServerTransport("/messages/"), server()

    async def connect(request: Request) -> Response:
        async with transport.connect_sse(request.scope, request.receive, request._send) as (read, write):
            await served.run(read, write, served.create_initialization_options())
        return Response()

    return Starlette(routes=[Route("/sse", connect), Mount("/messages/", transport.handle_post_message)])


@asynccontextmanager
async def sdk_upstream(transport: str) -> AsyncIterator[str]:
    """The URL of one, `transport` being `sse` or `streamable-http`."""
    async with listening(sse() if transport == "sse" else streamable()) as origin:
        yield f"{origin}/sse" if transport == "sse" else f"{origin}/mcp/"
