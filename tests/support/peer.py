"""The other end of an HTTP/1.1 connection, as bytes: what a client sends is kept, what it gets a test writes."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from gateway.upstream.http1 import Origin
from gateway.upstream.response import Response

SECONDS = 10
"""Deadline of everything that a test waits for."""
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
LOOPS = [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})]
"""Both event loops, for the fixture `anyio_backend`: transports differ between them, and replicas run on uvloop."""

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n")


class Side:
    """The peer's side of one connection; `requests` are the bytes of each that came."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.requests: list[bytes] = []
        self.ended = asyncio.Event()

    async def request(self) -> bytes:
        """The next request; b"" when the client has gone instead."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            body = await self.reader.readexactly(int(length[1])) if length else b""
        except (asyncio.IncompleteReadError, ConnectionError):
            self.ended.set()
            return b""
        self.requests.append(head + body)
        return head + body

    async def send(self, data: bytes) -> None:
        """Writes what a client may be too far gone to read."""
        with suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()

    async def gone(self) -> None:
        """Returns when the client has closed the connection."""
        with suppress(ConnectionError):
            while await self.reader.read(65_536):
                pass
        self.ended.set()

    async def serve(self, *answers: bytes) -> None:
        """Gives each request the next answer, and the last one to all that follow, until the client goes."""
        while await self.request():
            await self.send(answers[min(len(self.requests), len(answers)) - 1])


Act = Callable[[Side], Awaitable[None]]
"""What the peer does with a connection; when it is done, the connection is closed."""


class Peer:
    """A listening peer. `sides` are its connections in the order in which they came, `tasks` what it does with each."""

    def __init__(self, act: Act) -> None:
        self._act = act
        self.tasks: list[asyncio.Task[None]] = []
        self.sides: list[Side] = []
        self.url = ""
        self.authority = ""

    @property
    def requests(self) -> list[bytes]:
        """Every request, connection by connection."""
        return [request for side in self.sides for request in side.requests]

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        side = Side(reader, writer)
        self.sides.append(side)
        self.tasks.append(asyncio.create_task(self._hold(side)))

    async def _hold(self, side: Side) -> None:
        try:
            with suppress(ConnectionError):
                await self._act(side)
        finally:
            side.writer.close()
            with suppress(OSError):
                await side.writer.wait_closed()

    async def end(self) -> None:
        """Ends every connection; an act that failed fails the test."""
        for task in self.tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self.tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome


@asynccontextmanager
async def peer(act: Act, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    """A peer that does `act` with every connection."""
    made = Peer(act)
    server = await asyncio.start_server(made.accept, host, 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    made.authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    made.url = f"{'https' if tls else 'http'}://{made.authority}/mcp"
    try:
        yield made
    finally:
        server.close()
        await made.end()


@asynccontextmanager
async def origin_of(of: Peer, tls: ssl.SSLContext = TLS, *, name: str | None = None) -> AsyncIterator[Origin]:
    """A client's connections to the peer, optionally under another `name` than its address."""
    url = of.url if name is None else of.url.replace("127.0.0.1", name)
    made = Origin(url, tls)
    try:
        yield made
    finally:
        made.close()
        await asyncio.sleep(0)  # closed sockets are let go in the loop's next turn


def serving(*answers: bytes) -> Act:
    """Answers as `Side.serve` does."""

    async def act(side: Side) -> None:
        await side.serve(*answers)

    return act


async def ask(origin: Origin, body: bytes | None = b"{}", *, target: str = "/mcp") -> Response:
    """Sends a request and returns its answer, unread."""
    async with asyncio.timeout(SECONDS):
        return await origin.request("POST", target, {}, body)


async def read(response: Response) -> bytes:
    """The rest of the body; the connection is given back."""
    parts = []
    try:
        async with asyncio.timeout(SECONDS):
            while data := await response.chunk():
                parts.append(data)
    finally:
        response.settle()
    return b"".join(parts)


async def fetch(origin: Origin, body: bytes | None = b"{}") -> tuple[int, bytes]:
    """Status and body of one request."""
    response = await ask(origin, body)
    return response.status, await read(response)


def ok(body: bytes, *more: bytes, status: bytes = b"200 OK") -> bytes:
    """A whole answer with a length; `more` are further header lines."""
    lines = [b"HTTP/1.1 " + status, *more, b"content-length: %d" % len(body)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(*pieces: bytes, trailers: bytes = b"") -> bytes:
    """A whole answer in chunks; `trailers` are lines, each with its line end."""
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n" + trailers + b"\r\n"
