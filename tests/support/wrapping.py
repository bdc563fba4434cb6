"""Wrappers of stdio servers in the test's own event loop, and a client that shows every byte of what they answer."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from gateway.cli.stdio.child import Command
from gateway.cli.stdio.children import Children
from gateway.cli.stdio.endpoint import Endpoint
from tests.support.listening import listening

RAW = (sys.executable, "-S", str(Path(__file__).with_name("stdio_raw.py")))
REFERENCE = (sys.executable, str(Path(__file__).with_name("stdio_server.py")))
BOTH = {"accept": "application/json, text/event-stream"}
ASKABLE: Mapping[str, Any] = {"elicitation": {}}
SECONDS = 10


@dataclass
class Event:
    id: str
    message: dict[str, Any] | None
    """None in the event that only gives an id."""


class Events:
    """The events of an open response, one at a time."""

    def __init__(self, response: httpx.Response) -> None:
        assert response.status_code == 200, response.status_code
        assert response.headers["content-type"] == "text/event-stream"
        self._lines = response.aiter_lines()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        fields: dict[str, str] = {}
        async for line in self._lines:
            if line:
                name, _, value = line.partition(":")
                fields[name] = value.removeprefix(" ")
            elif "data" in fields:
                return Event(fields.get("id", ""), json.loads(fields["data"]) if fields["data"] else None)
            else:
                fields = {}
        raise StopAsyncIteration

    async def message(self) -> dict[str, Any]:
        async with asyncio.timeout(SECONDS):
            while True:
                event = await anext(self)
                if event.message is not None:
                    return event.message


@dataclass
class Client:
    """A legacy client that sees everything; it is `initialized` when it has a session."""

    http: httpx.AsyncClient
    headers: dict[str, str] = field(default_factory=dict)

    async def initialize(self, capabilities: Mapping[str, Any] | None = None, version: str = "2025-11-25") -> Self:
        information = {"name": "raw", "version": "1"}
        params = {"protocolVersion": version, "capabilities": capabilities or {}, "clientInfo": information}
        response = await self.post({"id": "init", "method": "initialize", "params": params})
        assert response.status_code == 200, response.text
        assert response.json()["result"]["serverInfo"]["name"] == "raw"
        self.headers = {"mcp-session-id": response.headers["mcp-session-id"], "mcp-protocol-version": version}
        accepted = await self.post({"method": "notifications/initialized"})
        assert (accepted.status_code, accepted.content) == (202, b"")
        return self

    async def post(self, message: Mapping[str, Any] | bytes, **headers: str) -> httpx.Response:
        body = message if isinstance(message, bytes) else json.dumps({"jsonrpc": "2.0", **message}).encode()
        fields = {"content-type": "application/json", **BOTH, **self.headers, **headers}
        return await self.http.post("/mcp", content=body, headers=fields)

    @asynccontextmanager
    async def open(self, name: str, request_id: int = 1, **arguments: Any) -> AsyncIterator[Events]:
        """Call a tool and read its response as a stream."""
        fields = {"content-type": "application/json", **BOTH, **self.headers}
        message = {"jsonrpc": "2.0", **tool(name, request_id, **arguments)}
        async with self.http.stream("POST", "/mcp", content=json.dumps(message), headers=fields) as response:
            yield Events(response)

    @asynccontextmanager
    async def listen(self, last_event_id: str | None = None) -> AsyncIterator[Events]:
        last = {} if last_event_id is None else {"last-event-id": last_event_id}
        async with self.http.stream(
            "GET", "/mcp", headers={"accept": "text/event-stream", **self.headers, **last}
        ) as response:
            yield Events(response)

    async def call(self, name: str, request_id: int = 1, **arguments: Any) -> Any:
        """The text that a tool returns; the whole message if it has none."""
        response = await self.post(tool(name, request_id, **arguments))
        message = last_message(response)
        assert message["id"] == request_id
        return message["result"]["content"][0]["text"] if "result" in message else message

    async def answer(self, question: Mapping[str, Any], content: Mapping[str, Any]) -> None:
        accepted = await self.post({"id": question["id"], "result": {"action": "accept", "content": content}})
        assert accepted.status_code == 202, accepted.text

    async def cancel(self, request_id: int) -> None:
        accepted = await self.post({"method": "notifications/cancelled", "params": {"requestId": request_id}})
        assert accepted.status_code == 202

    async def delete(self) -> int:
        return (await self.http.delete("/mcp", headers=self.headers)).status_code


def last_message(response: httpx.Response) -> Any:
    """The JSON-RPC response in a body: JSON when it came at once, a stream's last event when it took a moment."""
    if response.headers["content-type"] == "application/json":
        return response.json()
    return json.loads(response.text.rpartition("data: ")[2])


def tool(name: str, request_id: int = 1, **arguments: Any) -> dict[str, Any]:
    params = {"name": name, "arguments": arguments, "_meta": {"progressToken": f"token-{request_id}"}}
    return {"id": request_id, "method": "tools/call", "params": params}


class Wrapped:
    """A wrapper, and clients of it."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self.url = url
        self._stack = stack

    async def client(self) -> Client:
        http = httpx.AsyncClient(base_url=self.url, timeout=SECONDS, trust_env=False, verify=False)
        return Client(await self._stack.enter_async_context(http))

    async def session(self, capabilities: Mapping[str, Any] | None = None, version: str = "2025-11-25") -> Client:
        return await (await self.client()).initialize(capabilities, version)


@asynccontextmanager
async def wrapping(*command: str, limit: int = 8, idle: float = 600) -> AsyncIterator[Wrapped]:
    environment = {"PATH": os.environ["PATH"]}
    async with AsyncExitStack() as stack:
        children = Children(Command(command or RAW, environment), limit=limit, idle=idle)
        await stack.enter_async_context(children)
        url = await stack.enter_async_context(listening(Endpoint(children)))
        yield Wrapped(url, stack)


async def gone(pid: int) -> None:
    """Wait until no process has this id. A pidfd becomes readable when its process ends."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), SECONDS)
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
