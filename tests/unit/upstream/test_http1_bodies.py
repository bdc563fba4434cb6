"""Answers: however they are cut, framed, broken or forged, what is read is what was sent, or an error."""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.upstream import http1
from gateway.upstream.http1 import NotHTTP
from gateway.upstream.response import BUFFERED, BrokenOff
from tests.support.calls import until
from tests.support.peer import LOOPS, SECONDS, Act, Side, ask, chunked, fetch, ok, origin_of, peer, read, serving

OK = b"HTTP/1.1 200 OK\r\n"
READ = 256 * 1024
"""The most that an event loop takes from a socket at once."""


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def closing(answer: bytes) -> Act:
    """Answers one request and ends the connection."""

    async def act(side: Side) -> None:
        await side.request()
        await side.send(answer)

    return act


# Cuts

WHOLE = [
    (ok(b"content", b"content-type: Text/Plain; charset=x"), b"content"),
    (chunked(b"con", b"tent"), b"content"),
    (chunked(b"content", trailers=b"x-checksum: 1\r\ncontent-type: text/html\r\n"), b"content"),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + ok(b"content"), b"content"),
]


@pytest.mark.parametrize(("answer", "body"), WHOLE)
async def test_an_answer_cut_anywhere_is_the_same_answer(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, body: bytes
) -> None:
    cuts: Iterator[int] = itertools.chain(range(1, len(answer)), itertools.repeat(0))
    take = http1.Connection.data_received
    pieces: list[bytes] = []

    def cut(connection: http1.Connection, data: bytes) -> None:
        at = next(cuts)
        pieces[:] = [data[:at], data[at:]] if at else [data[index : index + 1] for index in range(len(data))]
        for piece in pieces:
            take(connection, piece)

    monkeypatch.setattr(http1.Connection, "data_received", cut)
    async with peer(serving(answer)) as server, origin_of(server) as origin:
        for _ in range(len(answer) + 2):
            assert await fetch(origin) == (200, body)
            assert b"".join(pieces) == answer
        assert len(server.sides) == 1


async def test_trailers_come_too_late_to_be_headers() -> None:
    answer = chunked(b"x", trailers=b"content-type: text/html\r\nmcp-session-id: stolen\r\n")
    async with peer(serving(answer, ok(b"next"))) as server, origin_of(server) as origin:
        response = await ask(origin)
        assert await read(response) == b"x"
        assert response.headers == {"transfer-encoding": "chunked"}
        following = await ask(origin)
        assert following.headers == {"content-length": "4"}
        assert await read(following) == b"next"


async def test_of_repeated_headers_the_first_counts_and_names_have_no_case() -> None:
    lines = (b"Content-Type: Text/Event-Stream ; a=b", b"CONTENT-TYPE: text/html", b"X:\t caf\xe9 ", b"Empty:")
    async with peer(serving(ok(b"", *lines))) as server, origin_of(server) as origin:
        response = await ask(origin)
        assert response.content_type == "text/event-stream"
        assert response.content_length == 0
        assert (response.headers["x"], response.headers["empty"]) == ("caf\xe9", "")
        response.settle()


# Framing


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
@pytest.mark.parametrize("lines", [b"", b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n"])
async def test_answers_that_have_no_body_end_with_their_headers(status: bytes, lines: bytes) -> None:
    async with peer(serving(b"HTTP/1.1 " + status + b"\r\n" + lines + b"\r\n")) as server, origin_of(server) as origin:
        for _ in range(2):
            assert await fetch(origin) == (int(status[:3]), b"")
        assert len(server.sides) == 1


async def test_an_acknowledgement_without_framing_is_settled_without_waiting_for_its_end() -> None:
    async def act(side: Side) -> None:
        await side.request()
        await side.send(b"HTTP/1.1 202 Accepted\r\n\r\n")
        await side.gone()

    async with peer(act) as server, origin_of(server) as origin:
        response = await ask(origin)
        assert (response.status, response.content_length, response.at_end) == (202, None, False)
        response.settle()
        async with asyncio.timeout(SECONDS):
            await server.sides[0].ended.wait()


@pytest.mark.parametrize("head", [OK + b"\r\n", b"HTTP/1.0 200 OK\r\n\r\n", OK + b"connection: keep-alive\r\n\r\n"])
async def test_a_body_without_a_length_ends_with_the_connection(head: bytes) -> None:
    async with peer(closing(head + b"to the end" * 1000)) as server, origin_of(server) as origin:
        for _ in range(2):
            assert await fetch(origin) == (200, b"to the end" * 1000)
        assert len(server.sides) == 2


async def test_a_body_without_a_length_is_broken_off_when_the_connection_is_reset() -> None:
    async def act(side: Side) -> None:
        await side.request()
        await side.send(OK + b"\r\nnot to the end")
        await taken.wait()
        held = side.writer.get_extra_info("socket")
        held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        side.writer.transport.abort()

    async with peer(act) as server, origin_of(server) as origin:
        taken = asyncio.Event()
        response = await ask(origin)
        assert await response.chunk() == b"not to the end"
        taken.set()
        with pytest.raises(BrokenOff):
            await read(response)


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 20", OK, OK + b"content-length: 3\r\n", b"HTTP/1.1 100 C\r\n\r\n"])
async def test_a_connection_that_ends_before_the_headers_do_breaks_the_request_off(sent: bytes) -> None:
    async with peer(closing(sent)) as server, origin_of(server) as origin:
        with pytest.raises(BrokenOff):
            await ask(origin)
        await until(lambda: not origin._all)


@pytest.mark.parametrize("answer", [ok(b"content")[:-3], chunked(b"cont", b"ent")[:-12], chunked(b"cont")[:-2]])
async def test_a_body_that_ends_too_soon_is_never_taken_for_a_whole_one(answer: bytes) -> None:
    async with peer(closing(answer)) as server, origin_of(server) as origin:
        response = await ask(origin)
        parts: list[bytes] = []

        async def gather() -> None:
            async with asyncio.timeout(SECONDS):
                while part := await response.chunk():
                    parts.append(part)

        with pytest.raises(BrokenOff):
            await gather()
        assert b"".join(parts) == b"cont"
        assert not response.at_end
        response.settle()
        await until(lambda: not origin._all)


# What is not HTTP/1.1

LENGTH = b"content-length: 1\r\n"
MALFORMED = [
    b"SSH-2.0-OpenSSH_9.9\r\n",
    b"<html>\r\n\r\n",
    b"\0\0\0\x12\x04\0\0\0\0\0",
    b"HTTP/3.0 200 OK\r\n\r\n",
    b"HTTP/1.1 20 OK\r\n\r\n",
    b"HTTP/1.1 2000 OK\r\n\r\n",
    b"HTTP/1.1 000 OK\r\n" + LENGTH + b"\r\nx",
    b"HTTP/1.1 099 OK\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
    OK + b"no colon\r\n" + LENGTH + b"\r\nx",
    OK + b": no name\r\n" + LENGTH + b"\r\nx",
    OK + b"space : before colon\r\n" + LENGTH + b"\r\nx",
    OK + b"a: folded\r\n line\r\n" + LENGTH + b"\r\nx",
    OK + b"a: \0\r\n" + LENGTH + b"\r\nx",
    OK + b"a: \x01\r\n" + LENGTH + b"\r\nx",
    OK + b"\xff: x\r\n" + LENGTH + b"\r\nx",
    OK + b"a: x\rb: y\r\n" + LENGTH + b"\r\nx",
    OK + b"a: x\n" + LENGTH + b"\r\nx",
    OK + LENGTH + LENGTH + b"\r\nx",
    OK + LENGTH + b"content-length: 2\r\n\r\nx",
    OK + b"content-length: 1, 1\r\n\r\nx",
    OK + b"content-length: -1\r\n\r\nx",
    OK + b"content-length: +1\r\n\r\nx",
    OK + b"content-length: 0x1\r\n\r\nx",
    OK + b"content-length:\r\n\r\nx",
    OK + b"content-length: 99999999999999999999\r\n\r\nx",
    OK + LENGTH + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    OK + b"transfer-encoding: chunked\r\n" + LENGTH + b"\r\n0\r\n\r\n",
    OK + b"transfer-encoding:\r\n\r\nx",
    OK + b"transfer-encoding: gzip\r\n\r\nx",
    OK + b"transfer-encoding: identity\r\n\r\nx",
    OK + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    OK + b"transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    OK + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
]


@pytest.mark.parametrize("answer", MALFORMED)
async def test_what_is_not_http_is_refused_and_the_connection_closed(answer: bytes) -> None:
    async def act(side: Side) -> None:
        await side.request()
        await side.send(answer)
        await side.gone()

    async with peer(act) as server, origin_of(server) as origin:
        with pytest.raises(NotHTTP):
            await ask(origin)
        async with asyncio.timeout(SECONDS):
            await server.sides[0].ended.wait()


@pytest.mark.parametrize(
    "broken", [b"x\r\n", b"-1\r\n", b"fffffffffffffffff\r\n", b"3\r\nabcd\r\n", b"3\nabc\n", b"3 \0\r\n"]
)
async def test_a_broken_chunk_breaks_the_body(broken: bytes) -> None:
    async def act(side: Side) -> None:
        await side.request()
        await side.send(chunked(b"good")[:-5])
        await taken.wait()
        await side.send(broken)
        await side.gone()

    async with peer(act) as server, origin_of(server) as origin:
        taken = asyncio.Event()
        response = await ask(origin)
        assert await response.chunk() == b"good"
        taken.set()
        with pytest.raises(NotHTTP):
            await read(response)
        async with asyncio.timeout(SECONDS):
            await server.sides[0].ended.wait()


# More than there is room for

ENDLESS = {
    "headers": (OK, b"x-%d: y\r\n"),
    "one header": (OK + b"x: ", b"%d"),
    "one name": (OK, b"x%d"),
    "a status line": (b"HTTP/1.1 200 ", b"OK%d"),
    "interim answers": (b"", b"HTTP/1.1 103 Early Hints\r\nlink: %d\r\n\r\n"),
    "trailers": (chunked(b"x")[:-2], b"x-%d: y\r\n"),
    "one trailer": (chunked(b"x")[:-2] + b"x: ", b"%d"),
    "a chunk extension": (chunked(b"x")[:-5] + b"1;x=", b"%d"),
}


@pytest.mark.parametrize("what", ENDLESS)
async def test_nothing_that_precedes_a_body_or_follows_it_goes_on_forever(what: str) -> None:
    start, more = ENDLESS[what]
    sent = 0

    async def act(side: Side) -> None:
        nonlocal sent
        await side.request()
        await side.send(start)
        for number in itertools.count():
            data = more % number * 512
            side.writer.write(data)
            await side.writer.drain()  # fails when the client has gone
            sent += len(data)

    async with peer(act) as server, origin_of(server) as origin:
        with pytest.raises(NotHTTP):
            await read(await ask(origin))
        async with asyncio.timeout(SECONDS):
            await asyncio.gather(*server.tasks)
        assert sent < 32 * 1024 * 1024  # what the kernel held


@pytest.mark.parametrize("framing", ["length", "chunks", "none"])
async def test_a_large_body_waits_for_a_slow_reader(framing: str) -> None:
    block = bytes(range(256)) * 4096
    count = 50

    async def act(side: Side) -> None:
        await side.request()
        if framing == "chunks":
            await side.send(chunked()[:-5])
        else:
            length = b"content-length: %d\r\n" % (len(block) * count) if framing == "length" else b""
            await side.send(OK + length + b"\r\n")
        for _ in range(count):
            await side.send(b"%x\r\n%b\r\n" % (len(block), block) if framing == "chunks" else block)
        if framing == "chunks":
            await side.send(b"0\r\n\r\n")

    async with peer(act) as server, origin_of(server) as origin:
        response = await ask(origin)
        received, most, turns = 0, 0, 0
        async with asyncio.timeout(SECONDS):
            while True:
                await until(lambda: response._buffered > BUFFERED or response.complete or response.at_end)
                for _ in range(5):  # turns in which more would come if the socket did not rest
                    await asyncio.sleep(0)
                data = await response.chunk()
                if not data:
                    break
                assert data == (block * 3)[received % len(block) :][: len(data)]
                received += len(data)
                most = max(most, len(data))
                turns += 1
        response.settle()
        assert received == len(block) * count
        assert most <= BUFFERED + READ
        assert turns >= len(block) * count // (BUFFERED + READ)
