"""Connections to an upstream: when one is used again, when it must not be, and what becomes of it otherwise."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from gateway.upstream import http1
from gateway.upstream.http1 import NotConnected, Origin
from gateway.upstream.response import BrokenOff, Response
from tests.support.calls import until
from tests.support.peer import LOOPS, SECONDS, TLS, Peer, Side, ask, chunked, fetch, ok, origin_of, peer, read, serving


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What closes a connection here is what the test says, and not its time."""
    monkeypatch.setattr(http1, "IDLE_SECONDS", 60.0)


async def ended(side: Side) -> None:
    """Returns when the client has closed this connection."""
    async with asyncio.timeout(SECONDS):
        await side.ended.wait()


# When a connection is used again


@pytest.mark.parametrize(
    "answer",
    [
        ok(b"one"),
        ok(b""),
        chunked(b"one", b"two"),
        ok(b"one", b"connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0"),
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
    ],
)
async def test_a_connection_is_used_again_after_an_answer_that_was_read(answer: bytes) -> None:
    async with peer(serving(answer)) as server, origin_of(server) as origin:
        first = await fetch(origin)
        assert await fetch(origin) == first
        assert len(server.sides) == 1


@pytest.mark.parametrize(
    "answer",
    [
        ok(b"one", b"connection: close"),
        ok(b"one", b"connection: keep-alive, close"),
        ok(b"one").replace(b"HTTP/1.1", b"HTTP/1.0"),
        chunked(b"one").replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1),
    ],
)
async def test_a_connection_that_the_server_ends_is_not_used_again(answer: bytes) -> None:
    async with peer(serving(answer)) as server, origin_of(server) as origin:
        for number in range(1, 4):
            assert await fetch(origin) == (200, b"one")
            await ended(server.sides[-1])
            assert len(server.sides) == number


async def test_of_several_unused_connections_the_one_used_last_goes_first() -> None:
    async def named(side: Side) -> None:
        await side.serve(ok(str(len(server.sides)).encode()))

    async with peer(named) as server, origin_of(server) as origin:
        held = [await ask(origin) for _ in range(3)]
        for index in (0, 2, 1):
            await read(held[index])
        again = [await ask(origin) for _ in range(4)]
        assert [await read(response) for response in again] == [b"2", b"3", b"1", b"4"]


async def test_many_requests_at_once_get_their_own_answers() -> None:
    async def echo(side: Side) -> None:
        while request := await side.request():
            await side.send(ok(request.partition(b"\r\n\r\n")[2]))

    async with peer(echo) as server, origin_of(server) as origin:
        for _ in range(3):
            bodies = [str(number).encode() * 50 for number in range(100)]
            answers = await asyncio.gather(*(fetch(origin, body) for body in bodies))
            assert answers == [(200, body) for body in bodies]
        assert len(server.sides) == 100


async def test_an_answer_that_is_not_wanted_to_its_end_closes_the_connection() -> None:
    async with peer(serving(ok(b"one"))) as server, origin_of(server) as origin:
        (await ask(origin)).settle()
        await ended(server.sides[0])
        assert await fetch(origin) == (200, b"one")
        assert len(server.sides) == 2


async def test_a_settled_answer_leaves_no_reader_waiting() -> None:
    async with peer(serving(ok(b"one")[:-1])) as server, origin_of(server) as origin:
        response = await ask(origin)
        assert await response.chunk() == b"on"
        waiting = asyncio.create_task(response.chunk())
        await asyncio.sleep(0)
        response.settle()
        with pytest.raises(BrokenOff):
            await asyncio.wait_for(waiting, SECONDS)
        response.settle()  # twice is once


# The end of an answer that came before its connection did


async def until_the_event(response: Response) -> None:
    """As a reader of an event stream: up to the result, and not to the end."""
    async with asyncio.timeout(SECONDS):
        assert await response.chunk() == b"data: 1\n\n"
    response.settle(answered=True)


async def test_a_stream_that_ends_soon_after_what_was_asked_for_leaves_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http1, "LINGER_SECONDS", float(SECONDS))

    async def act(side: Side) -> None:
        whole = chunked(b"data: 1\n\n", b": bye\n\n")
        while await side.request():
            await side.send(whole[:-14])
            await told.wait()
            await side.send(whole[-14:])

    async with peer(act) as server, origin_of(server) as origin:
        for _ in range(3):
            told = asyncio.Event()
            response = await ask(origin)
            await until_the_event(response)
            told.set()
            await until(lambda: response.complete)  # noqa: B023 - waited for within the turn
        assert len(server.sides) == 1


@pytest.mark.parametrize(
    "rest", [b"", b"6\r\n: on\n\n\r\n", b"0\r\n\r\nHTTP/1.1 200 OK\r\n", b"0\r\n\r\n\0", b"nonsense"]
)
async def test_a_stream_that_goes_on_or_ends_badly_does_not(monkeypatch: pytest.MonkeyPatch, rest: bytes) -> None:
    monkeypatch.setattr(http1, "LINGER_SECONDS", 0.05)

    async def act(side: Side) -> None:
        await side.request()
        await side.send(chunked(b"data: 1\n\n")[:-5])
        await told.wait()
        await side.send(rest)
        await side.gone()

    async with peer(act) as server, origin_of(server) as origin:
        told = asyncio.Event()
        await until_the_event(await ask(origin))
        told.set()
        await ended(server.sides[0])


async def test_a_connection_that_was_kept_is_not_closed_later_for_having_waited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http1, "LINGER_SECONDS", 0.05)

    async def act(side: Side) -> None:
        await side.request()
        await side.send(chunked(b"data: 1\n\n")[:-5])
        await told.wait()
        if side is server.sides[0]:
            await side.send(b"0\r\n\r\n")
            await side.serve(ok(b"one"), ok(b"next"))
        await side.gone()

    async with peer(act) as server, origin_of(server) as origin:
        told = asyncio.Event()
        kept, dropped = [await ask(origin) for _ in range(2)]
        await until_the_event(kept)
        await until_the_event(dropped)
        told.set()
        await ended(server.sides[1])  # the later of the two timers
        assert await fetch(origin) == (200, b"next")
        assert len(server.sides) == 2


# When it must not be used again


@pytest.mark.parametrize(
    "extra",
    [
        ok(b"stolen"),
        ok(b"stolen")[:20],
        b"H",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n",
        b"garbage",
        b"\0",
    ],
)
@pytest.mark.parametrize("later", [False, True])
async def test_what_follows_a_complete_answer_is_nobodys_answer(
    monkeypatch: pytest.MonkeyPatch, extra: bytes, later: bool
) -> None:
    received: list[bytes] = []
    take = http1.Connection.data_received

    def taken(connection: http1.Connection, data: bytes) -> None:
        take(connection, data)
        received.append(data)

    async def act(side: Side) -> None:
        if len(server.sides) > 1:
            await side.serve(ok(b"mine"))
        await side.request()
        if later:
            await side.send(ok(b"one"))
            await told.wait()
            await side.send(extra)
        else:
            await side.send(ok(b"one") + extra)
        await side.serve(ok(b"theirs"))

    monkeypatch.setattr(http1.Connection, "data_received", taken)
    async with peer(act) as server, origin_of(server) as origin:
        told = asyncio.Event()
        response = await ask(origin)
        if later:
            told.set()
            await until(lambda: b"".join(received).endswith(extra))
        assert await read(response) == b"one"
        assert await fetch(origin) == (200, b"mine")
        assert len(server.sides[0].requests) == 1


async def test_bytes_that_nobody_asked_for_close_an_unused_connection() -> None:
    async def act(side: Side) -> None:
        await side.request()
        await side.send(ok(b"one"))
        await told.wait()
        await side.send(ok(b"stolen"))
        await side.gone()

    async with peer(act) as server, origin_of(server) as origin:
        told = asyncio.Event()
        assert await fetch(origin) == (200, b"one")
        told.set()
        await ended(server.sides[0])
        assert await fetch(origin) == (200, b"one")
        assert len(server.sides) == 2


async def test_a_connection_that_the_server_closed_meanwhile_is_replaced() -> None:
    async def once(side: Side) -> None:
        await side.request()
        await side.send(ok(b"one"))

    async with peer(once) as server, origin_of(server) as origin:
        for number in range(1, 4):
            assert await fetch(origin) == (200, b"one")
            await until(lambda: not origin._all)
            assert len(server.sides) == number


async def test_an_unused_connection_is_closed_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "IDLE_SECONDS", 0.05)
    async with peer(serving(ok(b"one"))) as server, origin_of(server) as origin:
        held = [await ask(origin) for _ in range(3)]
        clock = asyncio.get_running_loop().time
        began = clock()
        await read(held[0])
        await until(lambda: clock() > began + 0.02)  # one after the other, each has its own time
        await read(held[1])
        await ended(server.sides[0])
        await ended(server.sides[1])
        assert not server.sides[2].ended.is_set()  # in use, however long
        assert await read(held[2]) == b"one"
        assert await fetch(origin) == (200, b"one")
        assert len(server.sides) == 3
        await ended(server.sides[2])
        await until(lambda: not origin._all)


# Cancelling, and the end


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\ncontent-le", ok(b"one")[:-1], chunked(b"one")[:-5]])
async def test_cancelling_closes_the_connection(answer: bytes) -> None:
    async def act(side: Side) -> None:
        await side.request()
        await side.send(answer)
        await side.gone()

    async with peer(act) as server, origin_of(server) as origin:
        task = asyncio.create_task(fetch(origin))
        await until(lambda: server.requests)
        for _ in range(20):  # far enough to have taken what was sent
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await ended(server.sides[0])
        await until(lambda: not origin._all)


async def closed_while(server: Peer, origin: Origin, task: asyncio.Task[Any]) -> None:
    await until(lambda: server.requests)
    for _ in range(20):
        await asyncio.sleep(0)
    origin.close()
    with pytest.raises(BrokenOff):
        async with asyncio.timeout(SECONDS):
            await task
    await ended(server.sides[0])


@pytest.mark.parametrize("answer", [b"", ok(b"one")[:-1], b"HTTP/1.1 200 OK\r\n\r\nuntil the connection ends"])
async def test_closing_breaks_off_what_is_in_flight(answer: bytes) -> None:
    async def act(side: Side) -> None:
        await side.request()
        await side.send(answer)
        await side.gone()

    async with peer(act) as server, origin_of(server) as origin:
        await closed_while(server, origin, asyncio.create_task(fetch(origin)))


async def test_after_closing_nothing_is_sent_any_more() -> None:
    async with peer(serving(ok(b"one"))) as server, origin_of(server) as origin:
        await fetch(origin)
        connecting = [asyncio.create_task(ask(origin)) for _ in range(2)]
        await asyncio.sleep(0)  # one sits on the unused connection, one is about to connect
        origin.close()
        for task in connecting:
            with pytest.raises((NotConnected, BrokenOff)):
                await task
        with pytest.raises(NotConnected):
            await ask(origin)
        for side in server.sides:
            await ended(side)
        assert len(server.sides[0].requests) <= 2
        assert [side.requests for side in server.sides[1:]] == [[]] * (len(server.sides) - 1)
        assert not origin._all


async def test_a_peer_that_vanishes_without_a_word_is_noticed_by_probes() -> None:
    async with peer(serving(ok(b"one"))) as server, origin_of(server, TLS) as origin:
        await fetch(origin)
        (connection,) = origin._all
        assert connection._transport is not None
        held = connection._transport.get_extra_info("socket")
        assert held.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        seconds = [held.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name, _ in http1._PROBES]
        assert seconds[0] + seconds[1] * seconds[2] <= 60
        assert len(server.sides) == 1
