"""The load generator's clients, on raw sockets."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final, cast

from benchmarks.wire import CLIENT, LEGACY, Endpoint, Protocol, Reply, ReplyReader, message

OnReply = Callable[[Reply | None], None]
# Ten digits for the whole run, so that a call template keeps its length and no two calls are alike.
numbers: Final = itertools.count(1_000_000_001)


class LoadError(Exception):
    """A program under load did not answer as the protocol says."""


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request outstanding."""

    def __init__(self) -> None:
        self.open = False
        self._transport: asyncio.Transport | None = None
        self._reader = ReplyReader()
        self._on_reply: OnReply | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self.open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        self._deliver(None)

    def data_received(self, data: bytes) -> None:
        reply = self._reader.feed(data)
        if reply is not None:
            self._deliver(reply)

    def send(self, request: bytes, on_reply: OnReply) -> None:
        """Sends one request; `on_reply` gets the reply, or None if the connection ends first."""
        assert self._transport is not None
        self._on_reply = on_reply
        if self.open:
            self._transport.write(request)
        else:
            self._deliver(None)

    async def exchange(self, request: bytes, seconds: float = 30.0) -> Reply:
        """Sends one request and waits for its reply.

        Raises:
            LoadError: the connection ended, or nothing came in time.
        """
        answered: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        self.send(request, lambda reply: None if answered.done() else answered.set_result(reply))
        try:
            reply = await asyncio.wait_for(answered, seconds)
        except TimeoutError:
            raise LoadError(f"no reply within {seconds:g} s") from None
        if reply is None:
            raise LoadError("the connection was closed before the reply")
        return reply

    def close(self) -> None:
        """Ends the connection; an outstanding request is given up."""
        self._on_reply = None
        if self._transport is not None:
            self._transport.close()

    def _deliver(self, reply: Reply | None) -> None:
        on_reply, self._on_reply = self._on_reply, None
        if on_reply is not None:
            on_reply(reply)


@dataclass
class Client:
    """A connection, and in the legacy era the session that was opened on it."""

    endpoint: Endpoint
    protocol: Protocol
    connection: Connection
    session: str | None = None

    async def initialize(self, seconds: float = 30.0) -> None:
        """Opens a session, which replaces the one before.

        Raises:
            LoadError: the handshake failed.
        """
        params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": CLIENT}
        text = message(self.endpoint, self.protocol, None, "initialize", params, next(numbers))
        reply = await self.connection.exchange(text, seconds)
        self.session = reply.header("mcp-session-id")
        try:
            reply.result()
        except ValueError as error:
            raise LoadError(f"initialize: {error}") from None
        text = message(self.endpoint, self.protocol, self.session, "notifications/initialized", {}, None)
        accepted = await self.connection.exchange(text, seconds)
        if accepted.status not in {200, 202}:
            raise LoadError(f"notifications/initialized: status {accepted.status}")

    async def request(self, method: str, params: dict[str, object], seconds: float = 30.0) -> dict[str, object]:
        """The result of one request.

        Raises:
            LoadError: no result came.
        """
        text = message(self.endpoint, self.protocol, self.session, method, params, next(numbers))
        reply = await self.connection.exchange(text, seconds)
        try:
            return reply.result()
        except ValueError as error:
            raise LoadError(f"{method}: {error}") from None

    async def tools(self, seconds: float = 30.0) -> list[str]:
        """Exposed names of all tools, over as many pages as the list has."""
        names: list[str] = []
        params: dict[str, object] = {}
        while True:
            result = await self.request("tools/list", params, seconds)
            tools = result["tools"]
            assert isinstance(tools, list)
            names.extend(tool["name"] for tool in tools)
            if not result.get("nextCursor"):
                return names
            params = {"cursor": result["nextCursor"]}

    async def end(self) -> None:
        """Closes the session, if there is one, and the connection."""
        if self.session is not None and self.connection.open:
            headers = {"MCP-Protocol-Version": LEGACY, "Mcp-Session-Id": self.session}
            # A program may close the connection at once; the session is gone either way.
            with contextlib.suppress(LoadError):
                await self.connection.exchange(self.endpoint.head("DELETE", headers, 0), 5.0)
        self.connection.close()


async def dial(endpoint: Endpoint) -> Connection:
    """A new connection."""
    _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", endpoint.port)
    return connection


async def connect(endpoint: Endpoint, protocol: Protocol, seconds: float = 30.0) -> Client:
    """A client that is ready to call: the legacy era has initialized, the modern one needs nothing."""
    client = Client(endpoint, protocol, await dial(endpoint))
    if protocol == LEGACY:
        await client.initialize(seconds)
    return client


@contextlib.asynccontextmanager
async def clients(endpoint: Endpoint, protocol: Protocol, count: int) -> AsyncIterator[list[Client]]:
    """`count` clients that are ready to call; their sessions are closed afterwards."""
    ready: list[Client] = []
    try:
        await connect_more(ready, endpoint, protocol, count)
        # Opening many sessions on a slow program can take longer than it keeps a quiet connection.
        for client in ready:
            if not client.connection.open:
                client.connection = await dial(endpoint)
        yield ready
    finally:
        for client in ready:
            await client.end()


async def connect_more(ready: list[Client], endpoint: Endpoint, protocol: Protocol, count: int) -> None:
    """Adds `count` clients one by one, so that the caller can end those that connected before one failed."""
    while count > 0:
        ready.append(await connect(endpoint, protocol))
        count -= 1
