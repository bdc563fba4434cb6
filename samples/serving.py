"""How a sample is run, and how it is kept to one era of the protocol: an SDK server would speak both."""

import json

import click
import uvicorn
from mcp_types import INVALID_REQUEST, UNSUPPORTED_PROTOCOL_VERSION
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS
from starlette.types import ASGIApp, Receive, Scope, Send


def run(app: ASGIApp) -> None:
    """Serve `app` at http://127.0.0.1:PORT/mcp, the port from the command line."""

    @click.command()
    @click.option("--port", type=click.IntRange(0, 65535), required=True, help="TCP port on 127.0.0.1.")
    def main(port: int) -> None:
        uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=2)

    main()


class OneEra:
    """Passes on the requests of one era and refuses those of the other, as a server would that knows no other.

    Which era a request is of, its `MCP-Protocol-Version` header says; before 2025-06-18 there was no such header.
    """

    def __init__(self, app: ASGIApp, *, modern: bool) -> None:
        self._app = app
        self._modern = modern

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        version = dict(scope["headers"]).get(b"mcp-protocol-version", b"").decode("latin-1")
        if (version in ("", *HANDSHAKE_PROTOCOL_VERSIONS)) is not self._modern:
            return await self._app(scope, receive, send)
        if self._modern:
            data = {"supported": list(MODERN_PROTOCOL_VERSIONS), "requested": version}
            error = {"code": UNSUPPORTED_PROTOCOL_VERSION, "message": "Unsupported protocol version", "data": data}
        else:
            words = f"Unsupported protocol version: {version}. Supported: {', '.join(HANDSHAKE_PROTOCOL_VERSIONS)}"
            error = {"code": INVALID_REQUEST, "message": words}
        body = json.dumps({"jsonrpc": "2.0", "id": None, "error": error}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 400, "headers": headers})
        return await send({"type": "http.response.body", "body": body})
