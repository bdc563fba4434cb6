"""What goes over the wire to an upstream, per era: bodies and headers, each built from nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Final

from mcp.shared.inbound import (
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
    MCP_PROTOCOL_VERSION_HEADER,
    NAME_BEARING_METHODS,
    encode_header_value,
    mcp_param_headers,
)
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    LOG_LEVEL_META_KEY,
    PROTOCOL_VERSION_META_KEY,
)
from mcp_types.version import LATEST_MODERN_VERSION

from catalogue.model import Server
from gateway import jsonrpc
from gateway.calls import Call, Caller
from gateway.upstream.transport import EVENT_STREAM, JSON

SESSION_HEADER: Final = "mcp-session-id"
CLIENT_INFO: Final = {"name": "mcp-gateway", "version": "0.1.0"}

_BASE: Final = {"content-type": JSON, "accept": f"{JSON}, {EVENT_STREAM}"}
_TRACEPARENT = re.compile(r"^00-([0-9a-f]{32})-[0-9a-f]{16}-([0-9a-f]{2})$")
_INTERACTIVE: Final = ("elicitation", "sampling", "roots")


def bridgeable(caller: Caller, server: Server) -> dict[str, Any]:
    """What may be declared to the upstream: what this client declared, we can carry, and policy allows."""
    allowed = {"elicitation": True, "sampling": server.allow_sampling, "roots": server.allow_roots}
    return {name: caller.capabilities[name] for name in _INTERACTIVE if allowed[name] and name in caller.capabilities}


def modern_body(
    method: str,
    request_id: str,
    params: Mapping[str, Any],
    *,
    capabilities: Mapping[str, Any],
    meta: Mapping[str, Any] | None = None,
) -> bytes:
    """A 2026-07-28 request; `meta` is added under the stamped envelope."""
    envelope = {
        PROTOCOL_VERSION_META_KEY: LATEST_MODERN_VERSION,
        CLIENT_INFO_META_KEY: CLIENT_INFO,
        CLIENT_CAPABILITIES_META_KEY: capabilities,
    }
    if meta:
        envelope = {**meta, **envelope}
    return jsonrpc.dumps(
        {"jsonrpc": "2.0", "id": request_id, "method": method, "params": {**params, "_meta": envelope}}
    )


def modern_headers(
    method: str, params: Mapping[str, Any], header_map: Mapping[tuple[str, ...], str] | None = None
) -> dict[str, str]:
    """The routing headers of a 2026-07-28 request, computed from the body that is sent."""
    headers = {
        **_BASE,
        MCP_PROTOCOL_VERSION_HEADER: LATEST_MODERN_VERSION,
        MCP_METHOD_HEADER: method,
    }
    if name_key := NAME_BEARING_METHODS.get(method):
        headers[MCP_NAME_HEADER] = encode_header_value(params[name_key])
    if header_map:
        headers.update(mcp_param_headers(header_map, params.get("arguments") or {}))
    return headers


def legacy_body(method: str, request_id: str | int | None, params: Mapping[str, Any] | None) -> bytes:
    """A request, or a notification when `request_id` is None."""
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if request_id is not None:
        message["id"] = request_id
    if params is not None:
        message["params"] = params
    return jsonrpc.dumps(message)


def legacy_headers(protocol_version: str | None, session_id: str | None) -> dict[str, str]:
    """Headers of a request on a legacy upstream session; both are None before the handshake."""
    headers = dict(_BASE)
    if protocol_version is not None:
        headers[MCP_PROTOCOL_VERSION_HEADER] = protocol_version
    if session_id is not None:
        headers[SESSION_HEADER] = session_id
    return headers


def call_meta(call: Call, request_id: str, *, modern: bool) -> dict[str, Any]:
    """The `_meta` of a forwarded call: our progress token, the log level, and the trace under a span of ours."""
    meta: dict[str, Any] = {}
    if call.progress_token is not None:
        meta["progressToken"] = request_id
    if modern and call.caller.log_level is not None:
        meta[LOG_LEVEL_META_KEY] = call.caller.log_level
    trace = call.meta.get("traceparent")
    if isinstance(trace, str) and (match := _TRACEPARENT.match(trace)):
        meta["traceparent"] = f"00-{match[1]}-{os.urandom(8).hex()}-{match[2]}"
        if isinstance(state := call.meta.get("tracestate"), str):
            meta["tracestate"] = state
    return meta
