"""The reference upstream as one ASGI application."""

from contextlib import AbstractAsyncContextManager
from typing import Any

import mcp_types as types
from jsonschema import Draft202012Validator
from mcp.server.caching import CacheableMethod, CacheHint
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.streamable_http import EventStore
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from starlette.applications import Starlette
from starlette.routing import Route

from conformance.reference import resources
from conformance.reference.changes import Changes
from conformance.reference.eras import Era, Pinned
from conformance.reference.interactive import interactive_tools
from conformance.reference.prompts import complete, prompts
from conformance.reference.replay import SessionLog
from conformance.reference.rounds import Context, InputNeededError, Round
from conformance.reference.sessions import Sessions
from conformance.reference.tools import ToolEntry, plain_tools

NAME = "conformance-reference"
# Milliseconds after which a client comes back to a stream that was cut.
RETRY = 250

_HINTS: dict[CacheableMethod, CacheHint] = {
    "tools/list": CacheHint(ttl_ms=60_000, scope="public"),
    "prompts/list": CacheHint(ttl_ms=60_000, scope="public"),
    "resources/list": CacheHint(ttl_ms=60_000, scope="public"),
    "resources/templates/list": CacheHint(ttl_ms=60_000, scope="public"),
    "resources/read": CacheHint(ttl_ms=5_000, scope="private"),
    "server/discover": CacheHint(ttl_ms=60_000, scope="public"),
}


class _ReferenceServer(Server[dict[str, Any]]):
    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        """Announces changes to the older revisions too: the session manager asks for the defaults, which do not."""
        announced = notification_options or NotificationOptions(True, True, True)
        return super().create_initialization_options(announced, experimental_capabilities, extensions)


class _ResumableSessions(StreamableHTTPSessionManager):
    """Gives each session a log of its own: the SDK's manager reads `event_store` once for every session it admits."""

    @property
    def event_store(self) -> EventStore | None:
        return SessionLog()

    @event_store.setter
    def event_store(self, shared: EventStore | None) -> None:
        if shared is not None:
            raise ValueError("event_store: leave it out, every session has its own")


class Upstream:
    """What the server offers, as the SDK's request functions."""

    def __init__(self, changes: Changes, sessions: Sessions) -> None:
        self._changes = changes
        self._sessions = sessions
        self._tools = [*plain_tools(sessions), *interactive_tools(), *changes.tools()]
        self._prompts = {entry.definition.name: entry for entry in prompts()}

    def _tools_by_name(self) -> dict[str, ToolEntry]:
        # The changing tool comes last, so that the place of all others in the list stays the same.
        return {entry.definition.name: entry for entry in (*self._tools, self._changes.changing_tool())}

    def input_schema(self, name: str) -> dict[str, Any] | None:
        entry = self._tools_by_name().get(name)
        return entry.definition.input_schema if entry else None

    async def list_tools(self, _: Context, __: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[entry.definition for entry in self._tools_by_name().values()])

    async def call_tool(
        self, context: Context, params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        entry = self._tools_by_name().get(params.name)
        if entry is None:
            raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name}")
        arguments = params.arguments or {}
        problem = next(Draft202012Validator(entry.definition.input_schema).iter_errors(arguments), None)
        if problem is not None:
            message = types.TextContent(text=f"{problem.json_path}: {problem.message}")
            return types.CallToolResult(content=[message], is_error=True)
        try:
            return await entry.run(Round(context, params), arguments)
        except InputNeededError as needed:
            return needed.result

    async def list_prompts(self, _: Context, __: types.PaginatedRequestParams | None) -> types.ListPromptsResult:
        static = [entry.definition for entry in self._prompts.values()]
        return types.ListPromptsResult(prompts=[*static, self._changes.changing_prompt()])

    async def get_prompt(
        self, context: Context, params: types.GetPromptRequestParams
    ) -> types.GetPromptResult | types.InputRequiredResult:
        if params.name == self._changes.changing_prompt().name:
            return _rendered([types.TextContent(text=f"This is {params.name}.")])
        entry = self._prompts.get(params.name)
        if entry is None:
            raise MCPError(types.INVALID_PARAMS, f"Unknown prompt: {params.name}")
        arguments = params.arguments or {}
        missing = [each.name for each in entry.definition.arguments or [] if each.name not in arguments]
        if missing:
            raise MCPError(types.INVALID_PARAMS, f"Missing arguments: {', '.join(missing)}")
        try:
            return _rendered(await entry.render(Round(context, params), arguments))
        except InputNeededError as needed:
            return needed.result

    async def list_resources(self, _: Context, __: types.PaginatedRequestParams | None) -> types.ListResourcesResult:
        return types.ListResourcesResult(resources=resources.listed())

    async def list_templates(
        self, _: Context, __: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult:
        return types.ListResourceTemplatesResult(resource_templates=resources.templates())

    async def read_resource(
        self, context: Context, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        return resources.read(context, params.uri)

    async def subscribe(self, context: Context, params: types.SubscribeRequestParams) -> types.EmptyResult:
        self._sessions.watch(context, params.uri)
        return types.EmptyResult()

    async def unsubscribe(self, context: Context, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
        self._sessions.unwatch(context, params.uri)
        return types.EmptyResult()

    async def set_level(self, context: Context, params: types.SetLevelRequestParams) -> types.EmptyResult:
        self._sessions.set_level(context, params.level)
        return types.EmptyResult()

    async def complete(self, _: Context, params: types.CompleteRequestParams) -> types.CompleteResult:
        return types.CompleteResult(completion=complete(params.argument))


def _rendered(content: list[types.ContentBlock]) -> types.GetPromptResult:
    return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=each) for each in content])


def build(era: Era) -> Starlette:
    """The application, serving MCP at `/mcp` to clients that call it by a loopback name."""
    bus = InMemorySubscriptionBus()
    sessions = Sessions()
    upstream = Upstream(Changes(bus, sessions), sessions)
    server = _ReferenceServer(
        NAME,
        version="1",
        instructions="Offers what the official conformance suites ask for.",
        cache_hints=_HINTS,
        get_tool_input_schema=upstream.input_schema,
        on_list_tools=upstream.list_tools,
        on_call_tool=upstream.call_tool,
        on_list_prompts=upstream.list_prompts,
        on_get_prompt=upstream.get_prompt,
        on_list_resources=upstream.list_resources,
        on_list_resource_templates=upstream.list_templates,
        on_read_resource=upstream.read_resource,
        on_subscribe_resource=upstream.subscribe,
        on_unsubscribe_resource=upstream.unsubscribe,
        on_subscriptions_listen=ListenHandler(bus),
        on_completion=upstream.complete,
        on_set_logging_level=upstream.set_level,
    )
    server.middleware.append(RequestStateBoundary(RequestStateSecurity.ephemeral(), default_audience=NAME))
    server.middleware.append(sessions.remember)
    loopback = ("127.0.0.1:*", "localhost:*", "[::1]:*")
    resumable = _ResumableSessions(
        server,
        retry_interval=RETRY,
        security_settings=TransportSecuritySettings(
            allowed_hosts=list(loopback),
            allowed_origins=[f"http://{host}" for host in loopback],
        ),
    )

    def lifespan(_: Starlette) -> AbstractAsyncContextManager[None]:
        return resumable.run()

    return Starlette(routes=[Route("/mcp", Pinned(resumable.handle_request, era))], lifespan=lifespan)
