"""POSTs of the 2026-07-28 era: one request, one answer, everything needed inside it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import structlog
from mcp.shared.inbound import (
    MCP_PROTOCOL_VERSION_HEADER,
    InboundLadderRejection,
    classify_inbound_request,
    find_duplicated_routing_header,
    unsupported_protocol_version_rejection,
    validate_mcp_param_headers,
)
from mcp_types import LOG_LEVEL_META_KEY, PROTOCOL_VERSION_META_KEY, SERVER_INFO_META_KEY, methods
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from catalogue.model import Kind
from gateway import jsonrpc
from gateway.bridge.federation import shared
from gateway.bridge.results import SERVER_INFO
from gateway.calls import Caller, Outlet, Principal
from gateway.dispatch import Dispatch
from gateway.edge.decoding import Refused, first_fault
from gateway.edge.http import Request
from gateway.edge.listening import Listening
from gateway.edge.outlets import Plain, PostOutlet
from gateway.edge.replies import Reply, for_error, rejection, result_body
from gateway.errors import GatewayError, UnknownMethod
from gateway.policy.authorization import visible

log = structlog.get_logger()

_PARAM_PREFIX: Final = "mcp-param-"
_LISTS: Final = {kind.method: kind for kind in Kind}
_PLAIN: Final = Plain()

Answerer = Callable[[Caller, Mapping[str, Any], Outlet], Awaitable[bytes]]


def is_modern(headers: Mapping[str, str], message: object) -> bool:
    """Is this request of the stateless era? Header or envelope says so; if they disagree, that is answered there."""
    version = headers.get(MCP_PROTOCOL_VERSION_HEADER)
    if version in MODERN_PROTOCOL_VERSIONS:
        return True
    params = message.get("params") if isinstance(message, dict) else None
    meta = params.get("_meta") if isinstance(params, dict) else None
    if not isinstance(meta, dict) or PROTOCOL_VERSION_META_KEY not in meta:
        return False
    return version not in HANDSHAKE_PROTOCOL_VERSIONS or meta[PROTOCOL_VERSION_META_KEY] in MODERN_PROTOCOL_VERSIONS


class Modern:
    """Answers modern POSTs."""

    def __init__(self, dispatch: Dispatch, listening: Listening, *, grace: float, keep_alive: float) -> None:
        self._dispatch = dispatch
        self._listening = listening
        self._grace = grace
        self._keep_alive = keep_alive
        self._answerers: Mapping[str, Answerer] = {
            "tools/call": dispatch.call_tool,
            "prompts/get": dispatch.get_prompt,
            "resources/read": dispatch.read_resource,
            "completion/complete": dispatch.complete,
            "server/discover": self._discover,
        }

    async def post(self, request: Request, principal: Principal, endpoint: str, message: dict[str, Any]) -> None:
        """Answers one decoded message."""
        kind = jsonrpc.kind_of(message)
        if kind is not jsonrpc.Kind.REQUEST:
            await self._unasked(request, kind)
            return
        request_id = message["id"]
        caller = self._caller(request, principal, endpoint, message)
        method: str = message["method"]
        params: dict[str, Any] = message["params"]
        if method == "subscriptions/listen":
            await self._listening.hold(request, caller, request_id, params)
            return
        outlet = PostOutlet(request, _PLAIN, grace=self._grace, keep_alive=self._keep_alive)
        try:
            status, body, headers = await self._answer(caller, method, params, request_id, outlet)
            await outlet.finish(status, body, headers)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not outlet.cancelled or task is None:
                raise
            task.uncancel()  # the client went away: everything below has been cancelled, nobody is left to answer
        finally:
            await outlet.close()

    async def _unasked(self, request: Request, kind: jsonrpc.Kind) -> None:
        version = request.headers.get(MCP_PROTOCOL_VERSION_HEADER, "")
        if (unsupported := unsupported_protocol_version_rejection(version)) is not None:
            raise Refused(rejection(unsupported))
        if kind is jsonrpc.Kind.RESPONSE:
            raise Refused(Reply(400, -32600, "Clients of this revision send no responses"))
        await request.respond(202)  # no client notification has a meaning here: closing the stream is how to cancel

    def _caller(self, request: Request, principal: Principal, endpoint: str, message: dict[str, Any]) -> Caller:
        request_id = message["id"]
        if request.has_repeated_headers:
            lines = request.raw_headers
            repeated = find_duplicated_routing_header(lines) or _repeated_param(lines)
            if repeated is not None:
                raise Refused(Reply(400, -32020, f"{repeated} header appears more than once"), request_id)
        route = classify_inbound_request(message, headers=request.headers)
        if isinstance(route, InboundLadderRejection):
            raise Refused(rejection(route), request_id)
        capabilities = route.client_capabilities
        if not isinstance(capabilities, dict):
            raise Refused(Reply(400, -32602, "_meta clientCapabilities: must be an object"), request_id)
        level = message["params"]["_meta"].get(LOG_LEVEL_META_KEY)
        caller = Caller(
            principal,
            endpoint,
            route.protocol_version,
            capabilities,
            log_level=level if isinstance(level, str) else None,
        )
        self._check_params(request, caller, message)
        return caller

    def _check_params(self, request: Request, caller: Caller, message: dict[str, Any]) -> None:
        method, params, request_id = message["method"], message["params"], message["id"]
        if method == "tools/call":
            name = params.get("name")
            item = self._dispatch.view(caller).tool(name) if isinstance(name, str) else None
            arguments = params.get("arguments")
            # Headers of a hidden tool are not checked: an absent one has none to be wrong.
            if (
                item is not None
                and item.header_map
                and isinstance(arguments, dict | None)
                and visible(caller.principal, (item,))
            ):
                found = validate_mcp_param_headers(item.raw.get("inputSchema"), arguments or {}, request.headers)
                if found is not None:
                    raise Refused(rejection(found), request_id)
            return
        try:
            methods.validate_client_request(method, caller.revision, params)
        except KeyError:
            raise Refused(Reply(404, -32601, "Method not found"), request_id) from None
        except ValidationError as error:
            raise Refused(Reply(400, -32602, first_fault(error)), request_id) from None

    async def _answer(
        self, caller: Caller, method: str, params: dict[str, Any], request_id: object, outlet: PostOutlet
    ) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
        answerer = self._answerers.get(method)
        try:
            if answerer is not None:
                result: tuple[bytes, ...] = (await answerer(caller, params, outlet),)
            elif method in _LISTS:
                result = await self._list(caller, _LISTS[method], params)
            else:
                raise UnknownMethod(method)
        except GatewayError as error:
            reply = for_error(error, method=method, revision=caller.revision, modern=True)
            return reply.status, reply.body(request_id), list(reply.headers)
        except Exception:
            log.exception("request_failed", method=method)
            return 200, Reply(200, -32603, "Internal error").body(request_id), []
        return 200, result_body(request_id, *result), []

    async def _list(self, caller: Caller, kind: Kind, params: Mapping[str, Any]) -> tuple[bytes, ...]:
        page = await self._dispatch.list_items(caller, kind, params)
        tail = self._hints(caller, kind)
        if page.next_cursor is not None:
            tail = {"nextCursor": page.next_cursor, **tail}
        return (b'{"', kind.value.encode(), b'":[', page.items, b"],", jsonrpc.dumps(tail)[1:])

    async def _discover(self, caller: Caller, params: Mapping[str, Any], outlet: Outlet) -> bytes:
        del params, outlet
        introduction = await self._dispatch.introduction(caller)
        result: dict[str, Any] = {
            "supportedVersions": list(MODERN_PROTOCOL_VERSIONS),
            "capabilities": introduction.capabilities,
            **self._hints(caller, None),
        }
        result["_meta"] = {SERVER_INFO_META_KEY: introduction.server_info}
        if introduction.instructions is not None:
            result["instructions"] = introduction.instructions
        return jsonrpc.dumps(result)

    def _hints(self, caller: Caller, kind: Kind | None) -> dict[str, Any]:
        view = self._dispatch.view(caller)
        return {
            "resultType": "complete",
            "ttlMs": self._dispatch.ttl_ms(caller, kind),
            "cacheScope": "public" if shared(view, caller, kind) else "private",
            "_meta": {SERVER_INFO_META_KEY: SERVER_INFO},
        }


def _repeated_param(lines: list[tuple[str, str]]) -> str | None:
    names = [name for name, _ in lines if name.startswith(_PARAM_PREFIX)]
    return next((name for name in names if names.count(name) > 1), None)
