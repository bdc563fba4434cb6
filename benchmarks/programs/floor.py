"""The floor: the leanest MCP gateway one would write in Python, and the denominator of every ratio.

uvicorn, httptools, uvloop; one ASGI callable; the JSON-RPC envelope decoded once, the era classified by the SDK's own
ladder, the prefix taken off the tool's name, the call forwarded by aiohttp in the era it came in, request and result
validated with the SDK's types, the result handed back under the client's id. No authentication, no policy, no
records, no streams, no server requests: whatever a gateway does beyond this is what its ratio to the floor shows.
Usage: python -m benchmarks.programs.floor PORT UPSTREAMS.json   where the file holds {slug: url}
"""

import asyncio
import itertools
import secrets
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any, Final, cast

import aiohttp
import orjson
import uvicorn
from mcp.shared.inbound import ERROR_CODE_HTTP_STATUS, InboundLadderRejection, classify_inbound_request
from mcp_types.jsonrpc import INVALID_PARAMS, METHOD_NOT_FOUND
from mcp_types.methods import CLIENT_REQUESTS, SERVER_RESULTS
from pydantic import TypeAdapter, ValidationError
from yarl import URL

from benchmarks.wire import CLIENT, ENVELOPE, LEGACY, MODERN

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]

CALL: Final = "tools/call"
ERAS: Final = (LEGACY, MODERN)
CALL_RESULTS: Final = {era: TypeAdapter[Any](cast("Any", SERVER_RESULTS[CALL, era])) for era in ERAS}
LIST_RESULT: Final = TypeAdapter[Any](cast("Any", SERVER_RESULTS["tools/list", MODERN]))
INFO: Final = {"name": "floor", "version": "1"}
# How long after the start a list waits for upstreams that have not answered; one that is later appears in a later list.
DISCOVERY_DEADLINE: Final = 1.0


class Upstream:
    """One server behind the floor: its address, and the session that all legacy calls share."""

    def __init__(self, slug: str, url: str, http: aiohttp.ClientSession) -> None:
        self._http = http
        self._url = URL(url)
        self._ids = itertools.count(1)
        self._session: dict[str, str] = {"MCP-Protocol-Version": LEGACY}
        self.slug = slug
        self.tools: list[dict[str, Any]] = []

    async def post(self, headers: dict[str, str], body: dict[str, Any]) -> tuple[Any, bytes]:
        """Headers and body of the upstream's answer."""
        async with self._http.post(self._url, data=orjson.dumps(body), headers=headers) as reply:
            return reply.headers, await reply.read()

    async def request(self, method: str, params: dict[str, Any], modern: bool) -> Any:
        """The decoded answer to one request, in the era asked for."""
        headers = self._session
        if modern:
            headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": method}
            if method == CALL:
                headers["Mcp-Name"] = params["name"]
        body = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}
        _, answer = await self.post(headers, body)
        return orjson.loads(answer)

    async def discover(self) -> None:
        """Opens the legacy session and takes over the definitions, names prefixed."""
        params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": CLIENT}
        headers, _ = await self.post({}, {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
        self._session["Mcp-Session-Id"] = headers["Mcp-Session-Id"]
        await self.post(self._session, {"jsonrpc": "2.0", "method": "notifications/initialized"})
        result = (await self.request("tools/list", {"_meta": ENVELOPE}, modern=True))["result"]
        LIST_RESULT.validate_python(result, by_name=False)
        self.tools = [{**tool, "name": f"{self.slug}__{tool['name']}"} for tool in result["tools"]]


class Floor:
    """The ASGI application."""

    def __init__(self, upstreams: dict[str, str]) -> None:
        self._urls = upstreams
        self._upstreams: list[Upstream] = []
        self._routes: dict[str, tuple[Upstream, str]] = {}
        self._sessions: set[str] = set()
        self._lists: dict[str, bytes] = {}
        self._discoveries: list[asyncio.Task[None]] = []
        self._discovery_ends = 0.0

    def start(self) -> None:
        """Makes the connection pool and begins to discover every upstream at once."""
        http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            headers={"Content-Type": "application/json", "Accept": "application/json, text/event-stream"},
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
        )
        self._discovery_ends = asyncio.get_running_loop().time() + DISCOVERY_DEADLINE
        self._upstreams = [Upstream(slug, url, http) for slug, url in self._urls.items()]
        self._discoveries = [asyncio.create_task(self._discover(upstream)) for upstream in self._upstreams]

    async def _discover(self, upstream: Upstream) -> None:
        await upstream.discover()
        for tool in upstream.tools:
            self._routes[tool["name"]] = (upstream, tool["name"].removeprefix(f"{upstream.slug}__"))
        self._lists.clear()

    async def _list(self, version: str) -> bytes:
        """The joined list as the bytes of a result, made once for every change and era."""
        patience = self._discovery_ends - asyncio.get_running_loop().time()
        if patience > 0:
            await asyncio.wait(self._discoveries, timeout=patience)
        if version not in self._lists:
            result: dict[str, Any] = {"tools": [tool for upstream in self._upstreams for tool in upstream.tools]}
            if version == MODERN:
                result |= {"resultType": "complete", "ttlMs": 60_000, "cacheScope": "public"}
            self._lists[version] = orjson.dumps(result)
        return self._lists[version]

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["method"] != "POST":
            self._sessions.discard(headers.get("mcp-session-id", ""))
            await answer(send, 200 if scope["method"] == "DELETE" else 405, b"")
            return
        part = await receive()
        data: bytes = part["body"]
        while part.get("more_body"):
            part = await receive()
            data += part["body"]
        body = orjson.loads(data)
        version = headers.get("mcp-protocol-version", LEGACY)
        if "id" not in body:
            await answer(send, 202, b"")
            return
        modern = version == MODERN
        if modern:
            route = classify_inbound_request(body, headers=headers)
            if isinstance(route, InboundLadderRejection):
                await refuse(send, body["id"], route.code, route.message)
                return
        elif body["method"] != "initialize" and headers.get("mcp-session-id") not in self._sessions:
            await answer(send, 404, b"")
            return
        await self._request(body, version, send)

    async def _request(self, body: dict[str, Any], version: str, send: Send) -> None:
        method = body["method"]
        model = CLIENT_REQUESTS.get((method, version))
        if model is None:
            await refuse(send, body["id"], METHOD_NOT_FOUND, "Method not found")
            return
        try:
            model.model_validate(body, by_name=False)
        except ValidationError:
            await refuse(send, body["id"], INVALID_PARAMS, "Invalid params")
            return
        if method == CALL:
            await self._call(body, version, send)
        elif method == "tools/list":
            listed = await self._list(version)
            await answer(send, 200, b'{"jsonrpc":"2.0","id":%s,"result":%s}' % (orjson.dumps(body["id"]), listed))
        elif method == "initialize":
            session = secrets.token_urlsafe(24)
            self._sessions.add(session)
            result = {"protocolVersion": LEGACY, "capabilities": {"tools": {}}, "serverInfo": INFO}
            text = orjson.dumps({"jsonrpc": "2.0", "id": body["id"], "result": result})
            await answer(send, 200, text, session)
        else:
            await refuse(send, body["id"], METHOD_NOT_FOUND, "Method not found")

    async def _call(self, body: dict[str, Any], version: str, send: Send) -> None:
        params = body["params"]
        if params["name"] not in self._routes:
            await refuse(send, body["id"], INVALID_PARAMS, "Unknown tool")
            return
        upstream, params["name"] = self._routes[params["name"]]
        reply = await upstream.request(CALL, params, modern=version == MODERN)
        if "result" in reply:
            CALL_RESULTS[version].validate_python(reply["result"], by_name=False)
        reply["id"] = body["id"]
        await answer(send, 200, orjson.dumps(reply))

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        self.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})


async def refuse(send: Send, number: Any, code: int, message: str) -> None:
    """Answers with a JSON-RPC error under the SDK's own table of statuses."""
    error = {"code": code, "message": message}
    await answer(
        send, ERROR_CODE_HTTP_STATUS.get(code, 200), orjson.dumps({"jsonrpc": "2.0", "id": number, "error": error})
    )


async def answer(send: Send, status: int, body: bytes, session: str | None = None) -> None:
    """One whole HTTP reply."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if session is not None:
        headers.append((b"mcp-session-id", session.encode("ascii")))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    uvicorn.run(
        Floor(orjson.loads(Path(sys.argv[2]).read_bytes())),
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        ws="none",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=120,
    )
