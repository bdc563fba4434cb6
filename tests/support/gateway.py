"""A whole replica behind a real socket in the test's own loop, with the three planes a test may watch."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from gateway.app import Gateway
from gateway.edge.protocol import Protocol
from gateway.keys import KeyRing
from gateway.settings import parse
from tests.support.listening import serving

MODERN = "2026-07-28"
BOTH = "application/json, text/event-stream"
RING = KeyRing.parse(KeyRing.generate())


@dataclass(slots=True)
class Replica:
    """A running replica: what clients reach, and what it recorded."""

    origin: str
    gateway: Gateway
    state_dir: Path

    @property
    def mcp(self) -> str:
        """The federated endpoint."""
        return f"{self.origin}/mcp"

    def server(self, slug: str) -> str:
        """One server's own endpoint."""
        return f"{self.origin}/servers/{slug}/mcp"

    def records(self) -> list[dict[str, Any]]:
        """Every line of the journal so far."""
        lines: list[dict[str, Any]] = []
        for path in sorted((self.state_dir / "records").glob("*.jsonl")):
            lines += [orjson.loads(line) for line in path.read_bytes().splitlines()]
        return lines


@asynccontextmanager
async def replica(
    database_url: str,
    state_dir: Path,
    servers: Iterable[dict[str, Any]],
    *,
    gateway: dict[str, Any] | None = None,
    ring: KeyRing = RING,
) -> AsyncIterator[Replica]:
    """Starts a replica with the configuration's `servers` section; anonymous unless `gateway` says otherwise."""
    section = {"authentication": {"mode": "anonymous"}, **(gateway or {})}
    settings = parse({"gateway": section, "servers": list(servers)})
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    app = Gateway(settings, database_url=database_url, keys=ring, host="127.0.0.1", port=port, state_dir=state_dir)
    async with serving(app, listener, lifespan="on", http=Protocol):
        yield Replica(f"http://127.0.0.1:{port}", app, state_dir)


def server(slug: str, url: str, **extra: Any) -> dict[str, Any]:
    """One entry of `servers`; `version`'s members go into `version={…}`."""
    version = {"version": "1", "url": url, **extra.pop("version", {})}
    return {"slug": slug, "versions": [version], **extra}


def modern_message(method: str, params: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """A 2026-07-28 request body; `options`: id, capabilities, meta."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": options.get("capabilities", {}),
        **options.get("meta", {}),
    }
    return {
        "jsonrpc": "2.0",
        "id": options.get("id", 1),
        "method": method,
        "params": {**(params or {}), "_meta": meta},
    }


def modern_headers(message: dict[str, Any]) -> dict[str, str]:
    """The headers that go with it."""
    headers = {
        "content-type": "application/json",
        "accept": BOTH,
        "mcp-protocol-version": MODERN,
        "mcp-method": message["method"],
    }
    name = message["params"].get("uri" if message["method"] == "resources/read" else "name")
    if isinstance(name, str) and message["method"] in ("tools/call", "prompts/get", "resources/read"):
        headers["mcp-name"] = name
    return headers


async def ask_modern(
    http: aiohttp.ClientSession, url: str, method: str, params: dict[str, Any] | None = None, **options: Any
) -> tuple[int, dict[str, Any]]:
    """Sends one modern request; returns the status and the final JSON-RPC message (of the JSON body or the stream)."""
    message = modern_message(method, params, **options)
    headers = {**modern_headers(message), **options.get("headers", {})}
    async with http.post(url, data=json.dumps(message).encode(), headers=headers) as response:
        return response.status, (await messages_of(response))[-1]


async def messages_of(response: aiohttp.ClientResponse) -> list[dict[str, Any]]:
    """Every JSON-RPC message of a response, JSON or event stream."""
    body = await response.read()
    if response.content_type == "application/json":
        return [orjson.loads(body)]
    return [orjson.loads(line[6:]) for line in body.splitlines() if line.startswith(b"data: ") and len(line) > 6]


class LegacySession:
    """A raw legacy client on one session, for tests that need to see statuses and headers."""

    def __init__(self, http: aiohttp.ClientSession, url: str, revision: str = "2025-11-25") -> None:
        self.http = http
        self.url = url
        self.revision = revision
        self.session_id = ""
        self.hello: dict[str, Any] = {}
        self._next = 0

    @property
    def headers(self) -> dict[str, str]:
        """Headers of a request on the session."""
        return {
            "content-type": "application/json",
            "accept": BOTH,
            "mcp-session-id": self.session_id,
            "mcp-protocol-version": self.revision,
        }

    async def open(self, capabilities: dict[str, Any] | None = None, **headers: str) -> LegacySession:
        """Shakes hands."""
        params = {
            "protocolVersion": self.revision,
            "capabilities": capabilities or {},
            "clientInfo": {"name": "test", "version": "1"},
        }
        body = {"jsonrpc": "2.0", "id": "init", "method": "initialize", "params": params}
        sent = {"content-type": "application/json", "accept": BOTH, **headers}
        async with self.http.post(self.url, json=body, headers=sent) as response:
            assert response.status == 200, await response.text()
            self.session_id = response.headers["mcp-session-id"]
            self.hello = (await messages_of(response))[-1]["result"]
        await self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return self

    async def send(self, message: dict[str, Any], url: str | None = None) -> tuple[int, list[dict[str, Any]]]:
        """Posts a message; returns the status and what came back."""
        async with self.http.post(url or self.url, json=message, headers=self.headers) as response:
            return response.status, [] if response.status == 202 else await messages_of(response)

    async def ask(self, method: str, params: dict[str, Any] | None = None, url: str | None = None) -> dict[str, Any]:
        """Sends a request and returns the final message."""
        self._next += 1
        message: dict[str, Any] = {"jsonrpc": "2.0", "id": self._next, "method": method}
        if params is not None:
            message["params"] = params
        _, messages = await self.send(message, url)
        return messages[-1]
