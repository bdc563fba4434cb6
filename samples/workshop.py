"""A workshop: an MCP server of revision 2025-11-25, where every session has a bench of its own.

python -m samples.workshop --port 9002
"""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp

from samples.resuming import ResumableSessions
from samples.serving import OneEra, run

Context = ServerRequestContext[Any, Request]
NOTEBOOK = "workshop://notebook"


@dataclass
class Bench:
    """What one session has."""

    notes: list[str] = field(default_factory=list)
    briefed: str | None = None
    """Who has been told how the lathe works; until then the session does not see it."""
    watches_notebook: bool = False
    log_level: types.LoggingLevel = "info"


benches: defaultdict[str, Bench] = defaultdict(Bench)
calls: Counter[str] = Counter()
"""Tool calls of all sessions, by name."""


def bench_of(context: Context) -> Bench:
    return benches[context.request.headers["mcp-session-id"] if context.request else ""]


# Tools


async def write_note(context: Context, text: str) -> dict[str, Any]:
    """Write a line into this session's notebook."""
    bench = bench_of(context)
    bench.notes.append(text)
    if bench.watches_notebook:
        await context.session.send_resource_updated(NOTEBOOK)
    return {"lines": len(bench.notes)}


async def take_briefing(context: Context) -> dict[str, Any]:
    """Be told how the lathe works, which unlocks it. Asks for a name."""
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    answer = await context.session.elicit_form("Who signs that they were briefed?", schema, context.request_id)
    if answer.action != "accept" or not answer.content:
        return {"briefed": False}
    bench_of(context).briefed = str(answer.content["name"])
    await context.session.send_tool_list_changed()
    return {"briefed": True}


async def run_lathe(context: Context, turns: int) -> dict[str, Any]:
    """Turn a piece of wood, with progress and a log line."""
    bench = bench_of(context)
    if bench.briefed is None:
        raise MCPError(types.INVALID_PARAMS, "Unknown tool: run_lathe")
    for turn in range(1, turns + 1):
        await context.session.report_progress(turn, turns, f"turn {turn}")
    if bench.log_level in ("debug", "info"):
        line = types.LoggingMessageNotificationParams(level="info", logger="lathe", data=f"{bench.briefed} is done")
        await context.session.send_notification(types.LoggingMessageNotification(params=line), context.request_id)
    return {"turns": turns, "by": bench.briefed}


async def dry_glue(context: Context) -> dict[str, Any]:
    """Wait for glue to dry. The server hangs up meanwhile; the client comes back with Last-Event-ID for the result."""
    if context.close_sse_stream is not None:
        await context.close_sse_stream()
    return {"dry": True}


async def call_counts(_: Context) -> dict[str, Any]:
    """How often each tool was called since the start, by all sessions."""
    return dict(calls)


TOOLS: dict[str, tuple[Callable[..., Awaitable[dict[str, Any]]], dict[str, str]]] = {
    "write_note": (write_note, {"text": "string"}),
    "take_briefing": (take_briefing, {}),
    "run_lathe": (run_lathe, {"turns": "integer"}),
    "dry_glue": (dry_glue, {}),
    "call_counts": (call_counts, {}),
}


async def list_tools(context: Context, _: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    tools = []
    for name, (function, arguments) in TOOLS.items():
        properties = {argument: {"type": kind} for argument, kind in arguments.items()}
        schema = {"type": "object", "properties": properties, "required": list(arguments)}
        if name != "run_lathe" or bench_of(context).briefed is not None:
            tools.append(types.Tool(name=name, description=function.__doc__, input_schema=schema))
    return types.ListToolsResult(tools=tools)


async def call_tool(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    if params.name not in TOOLS:
        raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name}")
    calls[params.name] += 1
    function, arguments = TOOLS[params.name]
    given = params.arguments or {}
    if given.keys() != arguments.keys():
        why = f"{params.name} takes {', '.join(arguments) or 'no arguments'}"
        return types.CallToolResult(content=[types.TextContent(type="text", text=why)], is_error=True)
    made = await function(context, **given)
    return types.CallToolResult(content=[types.TextContent(type="text", text=str(made))], structured_content=made)


# The notebook


async def list_resources(_: Context, __: types.PaginatedRequestParams | None) -> types.ListResourcesResult:
    notebook = types.Resource(
        uri=NOTEBOOK, name="notebook", mime_type="text/plain", description="This session's notes."
    )
    return types.ListResourcesResult(resources=[notebook])


async def read_resource(context: Context, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
    if str(params.uri) != NOTEBOOK:
        raise MCPError(-32002, "Resource not found", {"uri": str(params.uri)})
    text = "\n".join(bench_of(context).notes)
    return types.ReadResourceResult(
        contents=[types.TextResourceContents(uri=NOTEBOOK, mime_type="text/plain", text=text)]
    )


async def subscribe(context: Context, _: types.SubscribeRequestParams) -> types.EmptyResult:
    bench_of(context).watches_notebook = True
    return types.EmptyResult()


async def unsubscribe(context: Context, _: types.UnsubscribeRequestParams) -> types.EmptyResult:
    bench_of(context).watches_notebook = False
    return types.EmptyResult()


async def set_level(context: Context, params: types.SetLevelRequestParams) -> types.EmptyResult:
    bench_of(context).log_level = params.level
    return types.EmptyResult()


class WorkshopServer(Server[Any]):
    def create_initialization_options(self, *_: Any, **__: Any) -> InitializationOptions:
        return super().create_initialization_options(NotificationOptions(tools_changed=True))


def build() -> ASGIApp:
    server = WorkshopServer(
        "workshop",
        title="Shared workshop",
        version="1.0",
        instructions="Each session has its own notebook. The lathe needs a briefing.",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_read_resource=read_resource,
        on_subscribe_resource=subscribe,
        on_unsubscribe_resource=unsubscribe,
    )
    server.add_request_handler("logging/setLevel", types.SetLevelRequestParams, set_level)
    loopback = TransportSecuritySettings(
        allowed_hosts=["127.0.0.1:*", "localhost:*"], allowed_origins=["http://127.0.0.1:*", "http://localhost:*"]
    )
    sessions = ResumableSessions(server, security_settings=loopback, retry_interval=200)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with sessions.run():
            yield

    routes = [Route("/mcp", endpoint=StreamableHTTPASGIApp(sessions))]
    return OneEra(Starlette(routes=routes, lifespan=lifespan), modern=False)


if __name__ == "__main__":
    run(build())
