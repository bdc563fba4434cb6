"""A connection of a client lets go of a finished request, and of no other."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.edge.protocol import Protocol
from tests.support.calls import until
from tests.support.listening import serving
from tests.support.peer import LOOPS, SECONDS

GET = b"GET /%d HTTP/1.1\r\nhost: h\r\n\r\n"


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


class Client:
    """A raw connection to an application behind `Protocol`, with the server's own side of it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, held: Protocol) -> None:
        self._reader = reader
        self.writer = writer
        self.held = held

    async def answer(self) -> bytes:
        """The body of the next answer."""
        async with asyncio.timeout(SECONDS):
            head = await self._reader.readuntil(b"\r\n\r\n")
            return await self._reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r")[0]))


@asynccontextmanager
async def connected(app: Any) -> AsyncIterator[Client]:
    made: list[Protocol] = []

    class Seen(Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            made.append(self)

    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    async with serving(app, listener, http=Seen):
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        await until(lambda: made)
        try:
            yield Client(reader, writer, made[0])
        finally:
            writer.close()
            await writer.wait_closed()


async def respond(send: Any, body: bytes) -> None:
    length = str(len(body)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": body})


async def echo_path(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await respond(send, scope["path"].encode())


async def echo_body(scope: Any, receive: Any, send: Any) -> None:
    body, more = b"", scope["type"] == "http"
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    if body:
        await respond(send, body)


def rests(held: Protocol) -> bool:
    """Does an idle connection hold nothing of any request?"""
    return held.cycle is None and held.scope is None


async def test_an_answered_request_is_let_go_and_the_connection_serves_the_next() -> None:
    async with connected(echo_path) as client:
        for number in range(3):
            client.writer.write(GET % number)
            assert await client.answer() == b"/%d" % number
            await until(rests, client.held)


async def test_requests_sent_ahead_are_answered_in_their_order_and_then_let_go() -> None:
    async with connected(echo_path) as client:
        client.writer.write(b"".join(GET % number for number in range(20)))
        assert [await client.answer() for _ in range(20)] == [b"/%d" % number for number in range(20)]
        await until(rests, client.held)
        client.writer.write(GET % 20)
        assert await client.answer() == b"/20"


async def test_a_request_sent_while_another_runs_waits_for_it() -> None:
    begun: list[str] = []
    gates = {path: asyncio.Event() for path in ("/0", "/1", "/2")}

    async def gated(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            begun.append(scope["path"])
            await gates[scope["path"]].wait()
            await respond(send, scope["path"].encode())

    async with connected(gated) as client:
        client.writer.write(GET % 0)
        await until(lambda: begun == ["/0"])
        client.writer.write(GET % 1 + GET % 2)
        await until(lambda: len(client.held.pipeline) == 2)
        for number, path in enumerate(gates):
            assert begun[-1] == path
            assert not rests(client.held)
            gates[path].set()
            assert await client.answer() == path.encode()
            await until(lambda wanted=number + 2: len(begun) >= min(wanted, 3))
        await until(rests, client.held)


async def test_an_answer_given_before_the_body_has_come_leaves_the_rest_of_it_to_nobody() -> None:
    async with connected(echo_path) as client:
        client.writer.write(b"POST /early HTTP/1.1\r\nhost: h\r\ncontent-length: 6\r\n\r\nabc")
        assert await client.answer() == b"/early"
        assert not rests(client.held)  # half a request is still to come
        client.writer.write(b"def" + GET % 7)
        assert await client.answer() == b"/7"
        await until(rests, client.held)


async def test_a_body_that_comes_in_pieces_is_read_whole() -> None:
    async with connected(echo_body) as client:
        for _ in range(2):
            client.writer.write(b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n")
            for piece in (b"3\r\nabc\r\n", b"2\r\nde\r\n", b"0\r\n\r\n"):
                await client.writer.drain()
                client.writer.write(piece)
            assert await client.answer() == b"abcde"
            await until(rests, client.held)


async def test_an_idle_connection_is_closed_quietly_with_its_server() -> None:
    async with connected(echo_path) as client:
        client.writer.write(GET % 1)
        assert await client.answer() == b"/1"
        await until(rests, client.held)
        client.held.shutdown()
        await until(client.held.transport.is_closing)
