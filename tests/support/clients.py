"""Raw clients of all five revisions behind one interface, for tests that must see every message and every header."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
import orjson

from tests.support.gateway import BOTH, LegacySession, Replica, messages_of, modern_headers, modern_message

OLDEST = "2024-11-05"
NEWEST = "2026-07-28"
SESSIONS = ("2025-03-26", "2025-06-18", "2025-11-25")
REVISIONS = (OLDEST, *SESSIONS, NEWEST)
SECONDS = 10
"""Deadline of everything that is waited for."""

Message = dict[str, Any]


@dataclass(slots=True)
class Event:
    """One event of a stream; `comment` is set for a line that is none."""

    data: str = ""
    id: str | None = None
    event: str = ""
    retry: int | None = None
    comment: str | None = None

    @property
    def message(self) -> Message:
        """The JSON-RPC message in it."""
        message: Message = orjson.loads(self.data)
        return message


class Events:
    """The events of an open response, one at a time, each awaited with a deadline."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        assert response.status == 200, response.status
        assert response.content_type == "text/event-stream"
        self._content = response.content

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """The next event or comment; stops at the end of the stream."""
        event, empty = Event(), True
        async with asyncio.timeout(SECONDS):
            while raw := await self._content.readline():
                line = raw.decode().rstrip("\r\n")
                if line.startswith(":"):
                    return Event(comment=line[1:].strip())
                if line:
                    name, _, value = line.partition(":")
                    value = value.removeprefix(" ")
                    setattr(event, name, int(value) if name == "retry" else value)
                    empty = False
                elif not empty:
                    return event
        raise StopAsyncIteration

    async def message(self) -> Message:
        """The next JSON-RPC message."""
        async for event in self:
            if event.data and event.event in ("", "message"):
                return event.message
        raise AssertionError("the stream ended without another message")

    async def rest(self) -> list[Message]:
        """Every message until the stream ends."""
        return [event.message async for event in self if event.data]


class Client(ABC):
    """A client of one revision, connected."""

    def __init__(self, http: aiohttp.ClientSession, revision: str, key: str | None) -> None:
        self.http = http
        self.revision = revision
        self.authorization = {} if key is None else {"authorization": f"Bearer {key}"}
        self._ids = 0

    @property
    def modern(self) -> bool:
        """Does it speak 2026-07-28?"""
        return self.revision == NEWEST

    @abstractmethod
    async def converse(
        self, method: str, params: Mapping[str, Any] | None = None, *, meta: Mapping[str, Any] | None = None
    ) -> list[Message]:
        """Sends a request; returns every message of its stream, the response last."""

    async def ask(
        self, method: str, params: Mapping[str, Any] | None = None, *, meta: Mapping[str, Any] | None = None
    ) -> Message:
        """Sends a request; returns its response."""
        return (await self.converse(method, params, meta=meta))[-1]

    async def result(
        self, method: str, params: Mapping[str, Any] | None = None, *, meta: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Sends a request that must succeed."""
        answer = await self.ask(method, params, meta=meta)
        assert "result" in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    async def call(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Calls a tool; returns the result."""
        return await self.result("tools/call", {"name": name, "arguments": arguments})

    async def all(self, method: str, member: str) -> list[dict[str, Any]]:
        """Every item of a list, page after page."""
        items: list[dict[str, Any]] = []
        params: dict[str, Any] = {}
        while True:
            page = await self.result(method, params)
            items += page[member]
            if "nextCursor" not in page:
                return items
            params = {"cursor": page["nextCursor"]}

    def _body(self, method: str, params: Mapping[str, Any] | None, meta: Mapping[str, Any] | None) -> Message:
        self._ids += 1
        body: Message = {"jsonrpc": "2.0", "id": self._ids, "method": method}
        if params is not None or meta is not None:
            body["params"] = {**(params or {}), **({} if meta is None else {"_meta": meta})}
        return body


class ModernClient(Client):
    """2026-07-28: every request says all there is to know."""

    def __init__(
        self, http: aiohttp.ClientSession, url: str, capabilities: Mapping[str, Any] | None, key: str | None
    ) -> None:
        super().__init__(http, NEWEST, key)
        self.url = url
        self.capabilities = capabilities or {}

    async def converse(
        self, method: str, params: Mapping[str, Any] | None = None, *, meta: Mapping[str, Any] | None = None
    ) -> list[Message]:
        """As a POST of its own."""
        async with self.post(method, params, meta=meta) as response:
            return await messages_of(response)

    @asynccontextmanager
    async def post(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        meta: Mapping[str, Any] | None = None,
        request_id: int | str | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The open response; leaving it early closes the connection."""
        self._ids += 1
        options = {"id": self._ids if request_id is None else request_id, "meta": dict(meta or {})}
        body = modern_message(method, dict(params or {}), capabilities=self.capabilities, **options)
        headers = {**modern_headers(body), **self.authorization}
        async with self.http.post(self.url, data=json.dumps(body), headers=headers) as response:
            yield response


class SessionClient(Client):
    """2025-03-26 to 2025-11-25: a session over Streamable HTTP."""

    def __init__(self, http: aiohttp.ClientSession, url: str, revision: str, key: str | None) -> None:
        super().__init__(http, revision, key)
        self.url = url
        self.session = LegacySession(http, url, revision)

    @property
    def headers(self) -> dict[str, str]:
        """Those of every request on the session."""
        return {**self.session.headers, **self.authorization}

    async def open(self, capabilities: Mapping[str, Any] | None) -> Self:
        """Shakes hands."""
        hello = {"protocolVersion": self.revision, "capabilities": capabilities or {}}
        body = self._body("initialize", {**hello, "clientInfo": {"name": "test", "version": "1"}}, None)
        headers = {"content-type": "application/json", "accept": BOTH, **self.authorization}
        async with self.http.post(self.url, json=body, headers=headers) as response:
            assert response.status == 200, await response.text()
            self.session.session_id = response.headers["mcp-session-id"]
            self.session.hello = (await messages_of(response))[-1]["result"]
        self.session.revision = self.session.hello["protocolVersion"]
        await self.tell("notifications/initialized")
        return self

    async def converse(
        self, method: str, params: Mapping[str, Any] | None = None, *, meta: Mapping[str, Any] | None = None
    ) -> list[Message]:
        """As a POST on the session."""
        async with self.post(method, params, meta=meta) as response:
            return await messages_of(response)

    @asynccontextmanager
    async def post(
        self, method: str, params: Mapping[str, Any] | None = None, *, meta: Mapping[str, Any] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The open response; leaving it early closes the connection."""
        body = self._body(method, params, meta)
        async with self.http.post(self.url, data=json.dumps(body), headers=self.headers) as response:
            yield response

    async def tell(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Sends a notification."""
        await self.send({"jsonrpc": "2.0", "method": method, **({} if params is None else {"params": params})})

    async def send(self, body: Message) -> None:
        """Posts a notification, or the answer to a question of the server."""
        async with self.http.post(self.url, data=json.dumps(body), headers=self.headers) as response:
            assert response.status == 202, await response.text()

    @asynccontextmanager
    async def stream(self, last_event_id: str | None = None) -> AsyncIterator[Events]:
        """The session's GET stream, or the replay of a broken one."""
        last = {} if last_event_id is None else {"last-event-id": last_event_id}
        async with self.http.get(self.url, headers={**self.headers, **last}) as response:
            yield Events(response)

    async def delete(self) -> int:
        """Ends the session; returns the status."""
        async with self.http.delete(self.url, headers=self.headers) as response:
            return response.status


class ChannelClient(Client):
    """2024-11-05: one standing GET brings everything."""

    def __init__(self, http: aiohttp.ClientSession, origin: str, events: Events, address: str, key: str | None) -> None:
        super().__init__(http, OLDEST, key)
        self.events = events
        self.address = f"{origin}{address}"
        self.hello: dict[str, Any] = {}

    async def open(self, capabilities: Mapping[str, Any] | None) -> Self:
        """Shakes hands."""
        hello = {"protocolVersion": OLDEST, "capabilities": capabilities or {}}
        self.hello = await self.result("initialize", {**hello, "clientInfo": {"name": "test", "version": "1"}})
        await self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return self

    async def send(self, body: Message) -> None:
        """Posts one message."""
        headers = {"content-type": "application/json", **self.authorization}
        async with self.http.post(self.address, data=json.dumps(body), headers=headers) as response:
            assert response.status == 202, await response.text()

    async def converse(
        self, method: str, params: Mapping[str, Any] | None = None, *, meta: Mapping[str, Any] | None = None
    ) -> list[Message]:
        """As a POST whose answer comes down the channel."""
        body = self._body(method, params, meta)
        await self.send(body)
        messages: list[Message] = []
        while not messages or messages[-1].get("id") != body["id"]:
            messages.append(await self.events.message())
        return messages


@asynccontextmanager
async def connected(
    http: aiohttp.ClientSession,
    running: Replica,
    revision: str,
    *,
    endpoint: str = "",
    capabilities: Mapping[str, Any] | None = None,
    key: str | None = None,
) -> AsyncIterator[Client]:
    """A client of the revision, at the federated endpoint or at a server's own."""
    url = running.server(endpoint) if endpoint else running.mcp
    if revision == NEWEST:
        yield ModernClient(http, url, capabilities, key)
    elif revision == OLDEST:
        assert not endpoint, "the first revision's transport serves the federated endpoint only"
        headers = {"accept": "text/event-stream", **({} if key is None else {"authorization": f"Bearer {key}"})}
        async with http.get(f"{running.origin}/sse", headers=headers) as response:
            events = Events(response)
            first = await anext(events)
            assert first.event == "endpoint"
            yield await ChannelClient(http, running.origin, events, first.data, key).open(capabilities)
    else:
        yield await SessionClient(http, url, revision, key).open(capabilities)
