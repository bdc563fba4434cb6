"""The one place where errors become statuses, JSON-RPC errors and tool results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from mcp.shared.inbound import ERROR_CODE_HTTP_STATUS, InboundLadderRejection

from gateway import jsonrpc
from gateway.calls import DENIAL_META_KEY, OUR_META_PREFIX, RECORD_META_KEY
from gateway.errors import (
    Denied,
    GatewayError,
    InvalidParams,
    MissingCapability,
    NeedsScope,
    SessionGone,
    StorageUnavailable,
    Unauthenticated,
    UnknownMethod,
    UnknownName,
    UnknownResource,
    UpstreamError,
    UpstreamRefused,
)

REFUSED_BY_POLICY: Final = 1001
UPSTREAM_FAILED: Final = 1002
"""Our own codes: outside the range that JSON-RPC and MCP reserve (2026-07-28 basic/index, error codes)."""

_RESERVED = range(-32768, -31999)
_RELAYED = frozenset({-32600, -32602, -32603})
_RESOURCE_NOT_FOUND = -32002
_URL_ELICITATION = -32042
_MISSING_CAPABILITY = -32021
_HAVE_RESOURCE_CODE = frozenset({"2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"})


@dataclass(frozen=True, slots=True)
class Reply:
    """What a failed request is answered with: a JSON-RPC error, or a tool result when `result` is set."""

    status: int
    code: int = 0
    message: str = ""
    data: Any = None
    result: bytes | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def body(self, request_id: object) -> bytes:
        """The JSON-RPC text; an error that belongs to no request carries no id."""
        if self.result is not None:
            return result_body(request_id, self.result)
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.data is not None:
            error["data"] = self.data
        message: dict[str, Any] = {"jsonrpc": "2.0", "error": error}
        if request_id is not None:
            message["id"] = request_id
        return jsonrpc.dumps(message)


def result_body(request_id: object, *result: bytes) -> bytes:
    """A JSON-RPC response around an already serialised result, which may come in parts: a list is copied once."""
    return b"".join((b'{"jsonrpc":"2.0","id":', jsonrpc.dumps(request_id), b',"result":', *result, b"}"))


def rejection(found: InboundLadderRejection) -> Reply:
    """The answer to a request whose envelope or headers are wrong."""
    return Reply(ERROR_CODE_HTTP_STATUS.get(found.code, 400), found.code, found.message, found.data)


def invalid_message(error: jsonrpc.InvalidMessage) -> Reply:
    """The answer to a body that is not one JSON-RPC message."""
    return Reply(400, error.code, error.reason)


def for_error(error: GatewayError, *, method: str, revision: str, modern: bool) -> Reply:
    """The answer to a request that failed on purpose; `revision` is the client's."""
    record = error.record
    if isinstance(error, Denied) and error.answered_as is not None:
        error, record = error.answered_as, None  # hidden must not differ from absent, which has no record
    reply = _reply(error, method, revision)
    if reply.result is None and record is not None:
        data = {**reply.data} if isinstance(reply.data, dict) else {} if reply.data is None else {"detail": reply.data}
        reply = Reply(reply.status, reply.code, reply.message, {**data, RECORD_META_KEY: record}, None, reply.headers)
    if not modern and reply.status in (400, 404) and not isinstance(error, SessionGone):
        return Reply(200, reply.code, reply.message, reply.data, reply.result, reply.headers)
    # An upstream's own error may have one of our numbers.
    ours = reply.code in _ACTIONABLE and not (isinstance(error, UpstreamRefused) and error.code == reply.code)
    if ours and isinstance(error, Denied | UpstreamError) and method == "tools/call":
        return _tool_error(error, record, modern=modern)
    return reply


_ACTIONABLE = frozenset({REFUSED_BY_POLICY, UPSTREAM_FAILED})


def _reply(error: GatewayError, method: str, revision: str) -> Reply:
    match error:
        case InvalidParams() | UnknownName():
            return Reply(400, -32602, str(error))
        case UnknownMethod():
            return Reply(404, -32601, "Method not found")
        case UnknownResource():
            return _resource_not_found(error.uri, revision)
        case MissingCapability():
            return Reply(400, _MISSING_CAPABILITY, str(error), {"requiredCapabilities": error.required})
        case UpstreamRefused():
            return _relayed(error, method, revision)
        case UpstreamError():
            return Reply(200, UPSTREAM_FAILED, str(error), _denial(error))
        case Denied():
            return Reply(200, REFUSED_BY_POLICY, str(error), _denial(error))
        case _:
            return _http(error)


def _http(error: GatewayError) -> Reply:
    """What HTTP has a status for."""
    match error:
        case SessionGone():
            return Reply(404, -32600, "Session not found")
        case Unauthenticated():
            return Reply(401, -32600, "Authentication required", headers=((b"www-authenticate", b"Bearer"),))
        case NeedsScope():
            scope = " ".join(error.missing)
            challenge = f'Bearer error="insufficient_scope", scope="{scope}"'.encode("ascii", "ignore")
            return Reply(403, -32600, "Insufficient scope", headers=((b"www-authenticate", challenge),))
        case StorageUnavailable():
            return Reply(503, REFUSED_BY_POLICY, "The gateway is not available", headers=((b"retry-after", b"1"),))
        case _:
            return Reply(200, -32603, "Internal error")


def _relayed(error: UpstreamRefused, method: str, revision: str) -> Reply:
    """An upstream's own error: standard codes go on, hop-local and reserved ones do not (protocol rules, 1.5)."""
    code, data = error.code, error.data
    if isinstance(data, dict):  # what stands under our own prefix is said by us alone
        data = {key: data[key] for key in data if not key.startswith(OUR_META_PREFIX)}
    has_resource_code = revision in _HAVE_RESOURCE_CODE
    if method == "resources/read" and (code == _RESOURCE_NOT_FOUND or (code == -32602 and has_resource_code)):
        return Reply(400, _RESOURCE_NOT_FOUND if has_resource_code else -32602, str(error), data)
    if code == _URL_ELICITATION and revision == "2025-11-25":
        return Reply(200, code, str(error), data)
    if code in _RELAYED or code not in _RESERVED:
        return Reply(ERROR_CODE_HTTP_STATUS.get(code, 200), code, str(error), data)
    return Reply(200, -32603, str(error) or "The server refused the request", {"upstream": {"code": code}})


def _resource_not_found(uri: str, revision: str) -> Reply:
    code = _RESOURCE_NOT_FOUND if revision in _HAVE_RESOURCE_CODE else -32602
    return Reply(400, code, "Resource not found", {"uri": uri})


def _denial(error: Denied | UpstreamError) -> dict[str, Any]:
    if isinstance(error, Denied):
        facts: dict[str, Any] = {"stage": error.stage, "reason": error.reason}
        if error.retry_after_ms is not None:
            facts["retryAfterMs"] = error.retry_after_ms
        return {DENIAL_META_KEY: facts}
    return {DENIAL_META_KEY: {"stage": "upstream", "reason": error.reason}}


def _tool_error(error: Denied | UpstreamError, record: str | None, *, modern: bool) -> Reply:
    """What a model can act on is a tool result with one plain sentence."""
    meta = _denial(error)
    if record is not None:
        meta[RECORD_META_KEY] = record
    value: dict[str, Any] = {"content": [{"type": "text", "text": str(error)}], "isError": True, "_meta": meta}
    if modern:
        value["resultType"] = "complete"
    return Reply(200, result=jsonrpc.dumps(value))
