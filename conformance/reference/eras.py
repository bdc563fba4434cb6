"""Pin the upstream to one protocol era, as servers are that were written for one only."""

import json
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import mcp_types as types
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

Era = Literal["auto", "legacy", "modern"]
Endpoint = Callable[[Scope, Receive, Send], Awaitable[None]]


class Pinned:
    """An ASGI endpoint that lets one era through to `endpoint` and answers the other as a stranger would."""

    def __init__(self, endpoint: Endpoint, era: Era) -> None:
        self._endpoint = endpoint
        self._refuse = {"legacy": _refuse_modern, "modern": _refuse_legacy}.get(era)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._refuse is not None:
            request = Request(scope, receive)
            version = request.headers.get(MCP_PROTOCOL_VERSION_HEADER)
            if (refusal := await self._refuse(request, version)) is not None:
                await refusal(scope, receive, send)
                return
        await self._endpoint(scope, receive, send)


async def _refuse_modern(_: Request, version: str | None) -> Response | None:
    """Servers of 2025-11-25 and before know the header but not the version, and no modern error codes."""
    if version is None or version in HANDSHAKE_PROTOCOL_VERSIONS:
        return None
    return _error(None, types.INVALID_REQUEST, f"Bad Request: unsupported protocol version {version}")


async def _refuse_legacy(request: Request, version: str | None) -> Response | None:
    """A server of 2026-07-28 alone has no sessions, and says which versions it does speak."""
    if version is not None and version not in HANDSHAKE_PROTOCOL_VERSIONS:
        return None
    if request.method != "POST":
        return Response(status_code=405, headers={"Allow": "POST"})
    body = await _body(request)
    params = body.get("params")
    offered = params.get("protocolVersion") if isinstance(params, dict) else None
    requested = version or offered
    if not isinstance(requested, str):
        return _error(body.get("id"), types.HEADER_MISMATCH, f"{MCP_PROTOCOL_VERSION_HEADER} header is missing")
    supported = {"supported": list(MODERN_PROTOCOL_VERSIONS), "requested": requested}
    return _error(body.get("id"), types.UNSUPPORTED_PROTOCOL_VERSION, "Unsupported protocol version", supported)


async def _body(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body())
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _error(request_id: Any, code: int, message: str, data: Any = None) -> Response:
    error = {"code": code, "message": message} | ({} if data is None else {"data": data})
    return JSONResponse({"jsonrpc": "2.0", "id": request_id, "error": error}, status_code=400)
